//! `drumline demo`: four agents in separate processes review a git repository together, and one of them is killed.
//!
//! ```text
//!  demo ──starts──▶ server ◀──streams── agent-1 … agent-4     processes of this very binary
//!   │  └─events **──▶ timeline, tally, chaos ──SIGKILL──▶ agent-n
//!   └─workflow──▶ list ─▶ review, one task for each chunk ─▶ reduce ─▶ write, under a lock
//! ```
//!
//! Everything that is seen comes from the server's log, over the same SDK that anybody's agents use. The agents do real work
//! ([`review`]) on the files of one commit. At the end the recorded results are read back and checked ([`outcome`]): the demo
//! succeeds only if every file was looked at exactly once and, unless chaos is off, the work of the killed agent was taken
//! over. Nothing is left but the report; when the demo fails, the logs stay, too.

pub mod agents;
mod chaos;
mod closing;
mod fact;
mod outcome;
pub mod review;
mod stage;
mod timeline;
pub mod work;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use drumline::Client;
use drumline::events::{EventStream, Filter, Start};
use drumline::workflows::WorkflowHandle;
use futures::{StreamExt, TryStreamExt};

use self::chaos::{Chaos, Verdict};
use self::fact::Fact;
use self::outcome::{Outcome, Tally};
use self::review::{GitError, Repository};
use self::stage::Stage;
use self::timeline::{Screen, Timeline};
use self::work::{Order, Plan};
use super::Failure;
use super::signals::Orders;

/// How many agents there are.
const AGENTS: usize = 4;
/// How long a first attempt works at least, where one is to be killed.
const PACE: Duration = Duration::from_millis(400);
/// How long the agents may take to be there.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How long nothing may happen at all.
const STALL_PATIENCE: Duration = Duration::from_secs(120);
/// How often processes are looked after.
const TICK: Duration = Duration::from_millis(200);

/// What `drumline demo` can be told.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It starts a server and four agents of its own, and leaves nothing behind but the report. It looks at the files that \
are tracked at HEAD, and runs no program but git."
)]
pub struct DemoArgs {
    /// The git repository to review
    #[arg(long, value_name = "PATH", default_value = ".")]
    repo: PathBuf,
    /// Kill nobody
    #[arg(long)]
    no_chaos: bool,
    /// Say how it went in one line of JSON on standard output; the timeline goes to standard error
    #[arg(long)]
    json: bool,
}

/// Runs the demo.
///
/// # Errors
/// When the repository cannot be read, something cannot be started, it is interrupted, or what was promised did not happen.
pub async fn run(args: DemoArgs) -> Result<(), Failure> {
    let mut orders = Orders::listen()?;
    let (repository, plan) = read(&args.repo).await?;
    let report = report_path(&repository);
    let mut demo = Demo {
        stage: Stage::new()?,
        timeline: Timeline::new(Screen::new(args.json)),
        tally: Tally::default(),
        chaos: Chaos::new(!args.no_chaos, plan.chunk_count() > 0),
        args,
    };
    let done = tokio::select! {
        biased;
        order = orders.next() => Err(Failure::Code(order.exit_code())),
        done = demo.play(&repository, &plan, &report) => done,
    };
    if matches!(&done, Err(failure) if !is_interruption(failure)) {
        let screen = demo.timeline.screen();
        demo.stage.keep_logs().iter().for_each(|line| screen.line(line));
    }
    drop(demo);
    remove_parts(&report);
    done
}

/// Whether the demo was asked to end.
fn is_interruption(failure: &Failure) -> bool {
    matches!(failure, Failure::Code(code) if *code > 128)
}

/// Opens the repository and lists its files.
async fn read(path: &Path) -> Result<(Repository, Plan), Failure> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let repository = Repository::open(&path)?;
        let commit = repository.snapshot()?.commit;
        let plan = Plan::new(&repository, commit)?;
        Ok((repository, plan))
    });
    let read = read.await.map_err(|error| Failure::message(error.to_string()))?;
    read.map_err(|error: GitError| match error {
        GitError::NotARepository { path } => Failure::usage(format!(
            "{} is not inside a git repository: go to one, or name one with --repo PATH",
            path.display()
        )),
        GitError::NoDirectory { .. } => Failure::usage(error.to_string()),
        GitError::GitMissing(cause) => Failure::message(format!("git is needed and cannot be run: {cause}")),
        error => Failure::message(error.to_string()),
    })
}

/// A demo under way.
struct Demo {
    // Dropped first: whatever happens, its processes end.
    stage: Stage,
    timeline: Timeline,
    tally: Tally,
    chaos: Chaos,
    args: DemoArgs,
}

impl Demo {
    async fn play(&mut self, repository: &Repository, plan: &Plan, report: &Path) -> Result<(), Failure> {
        self.announce(repository, plan);
        let url = self.stage.start_server().await?;
        self.timeline
            .note("server", "listens", &format!("{url}, its data is gone with it"));
        let client = Client::connect(&url).await?;
        let everything = Filter::all().event_type("**");
        let mut events = client.events().subscribe(everything).from(Start::Beginning).events();

        let pace = if self.args.no_chaos { Duration::ZERO } else { PACE };
        let agents: Vec<String> = (1..=AGENTS).map(|number| format!("agent-{number}")).collect();
        for agent in &agents {
            self.stage.start_agent(agent, &url, repository.path(), pace)?;
        }
        self.wait_for_agents(&client, &mut events).await?;

        let correlation_id = uuid::Uuid::now_v7().to_string();
        let order = Order {
            commit: plan.snapshot.commit.clone(),
            title: title(repository),
            report: report.to_string_lossy().into_owned(),
        };
        let workflow = client
            .workflows()
            .start(work::workflow(&order, &correlation_id))
            .await?;
        self.timeline.expect_chunks(plan.chunk_count());
        self.follow(&mut events, &workflow).await?;

        let (tally, chaos) = (&self.tally, &self.chaos);
        let outcome = Outcome::gather(&client, workflow.id(), plan, tally, chaos, !self.args.no_chaos).await?;
        self.close(&outcome, &agents)
    }

    fn announce(&self, repository: &Repository, plan: &Plan) {
        let screen = self.timeline.screen();
        let snapshot = &plan.snapshot;
        let commit = snapshot
            .commit
            .as_deref()
            .map_or("no commit yet", |commit| commit.get(..12).unwrap_or(commit));
        screen.line(&format!(
            "Four agents review {} ({commit}): {} in {}",
            super::human::one_line(&title(repository)),
            closing::counted(snapshot.files.len() as u64, "file"),
            closing::counted(plan.chunk_count() as u64, "chunk"),
        ));
        if !self.args.no_chaos {
            screen.line(&format!(
                "One of them will be killed. First attempts are paced to at least {} ms, so that it can be watched.",
                PACE.as_millis()
            ));
        }
        screen.line("");
    }

    /// Waits until all agents have registered, and finds them by what they can do.
    async fn wait_for_agents(&mut self, client: &Client, events: &mut EventStream) -> Result<(), Failure> {
        let patience = tokio::time::Instant::now() + READY_PATIENCE;
        let mut registered = 0;
        while registered < AGENTS {
            let event = tokio::time::timeout_at(patience, self.next_event(events)).await;
            let fact = event.map_err(|_elapsed| Failure::message("the agents did not register"))??;
            registered += usize::from(fact.event_type == "agent.registered");
        }
        let filter = drumline::v1::AgentFilter {
            capability: work::CHUNK.to_owned(),
            ..Default::default()
        };
        let found: Vec<_> = client
            .registry()
            .list_at(filter, &events.cursor())
            .try_collect()
            .await?;
        let what = format!("{} agents that can {}", found.len(), work::CHUNK);
        self.timeline.note("registry", "found", &what);
        match found.len() {
            AGENTS => Ok(()),
            _ => Err(Failure::message("not all agents can be found by what they can do")),
        }
    }

    /// Follows the log until the workflow has ended.
    async fn follow(&mut self, events: &mut EventStream, workflow: &WorkflowHandle) -> Result<(), Failure> {
        loop {
            let patience = tokio::time::timeout(STALL_PATIENCE, self.next_event(events));
            let stalled = |_elapsed| Failure::message(format!("nothing has happened for {STALL_PATIENCE:?}"));
            let fact = patience.await.map_err(stalled)??;
            let ended = matches!(
                fact.event_type.as_str(),
                "workflow.completed" | "workflow.failed" | "workflow.cancelled"
            );
            if ended && fact.subject == workflow.id() {
                return Ok(());
            }
        }
    }

    /// The next event, after all that follows from it is done. Looks after the processes while it waits.
    async fn next_event(&mut self, events: &mut EventStream) -> Result<Fact, Failure> {
        let event = loop {
            tokio::select! {
                biased;
                event = events.next() => break event,
                () = tokio::time::sleep(TICK) => self.look_after_processes()?,
            }
        };
        let event = event.ok_or_else(|| Failure::message("the stream of events has ended"))??;
        let fact = Fact::of(&event);
        self.tally.hear(&fact);
        let verdict = self.chaos.hear(&fact, Instant::now());
        // First the deed, then the words.
        let killed = match &verdict {
            Verdict::Kill(agent) => self.stage.kill(agent),
            _ => None,
        };
        if let Some((_, at)) = killed {
            self.chaos.killed(&fact.agent, at);
        }
        self.timeline.event(&fact);
        match verdict {
            Verdict::Kill(agent) => {
                if let Some((pid, _)) = killed {
                    self.timeline.killed(&agent, pid, &fact);
                }
            }
            Verdict::Recovered(took) => self.timeline.recovered(&fact, took),
            Verdict::Nothing => {}
        }
        Ok(fact)
    }

    fn look_after_processes(&mut self) -> Result<(), Failure> {
        while let Some((name, status)) = self.stage.ended() {
            self.timeline.trouble(&name, "ended", &status.to_string());
            if name == "server" {
                return Err(Failure::message("the server has ended"));
            }
        }
        match self.stage.has_agents() {
            true => Ok(()),
            false => Err(Failure::message("no agent is left")),
        }
    }

    fn close(&self, outcome: &Outcome, agents: &[String]) -> Result<(), Failure> {
        let screen = self.timeline.screen();
        closing::show(screen, outcome, &self.chaos, self.timeline.began(), agents);
        if self.args.json {
            Screen::new(false).line(&outcome.json(agents.len()));
        }
        match outcome.problems.is_empty() {
            true => Ok(()),
            false => Err(Failure::message(outcome.problems.join("; "))),
        }
    }
}

/// What the report calls the repository.
fn title(repository: &Repository) -> String {
    let path = repository.path();
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    whole.display().to_string()
}

/// A new file for the report, named after the repository.
fn report_path(repository: &Repository) -> PathBuf {
    let whole = title(repository);
    let name: String = Path::new(&whole)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        .take(40)
        .collect();
    let id = uuid::Uuid::new_v4().simple().to_string();
    std::env::temp_dir().join(format!("drumline-review-{name}-{}.md", &id[..8]))
}

/// Removes what a killed writer may have left beside the report.
fn remove_parts(report: &Path) {
    for attempt in 1..=work::MOST_ATTEMPTS {
        // Most of them were never there.
        let _removed = std::fs::remove_file(work::part(report, attempt));
    }
}
