//! Many agents with nothing to do, each with a stream and, unless it is said otherwise, a connection of its own: whether all stay alive,
//! what they cost the server, and how soon the task of one that dies is in other hands.
//!
//! An operation is a heartbeat, and its latency the time from it to the nonce that answers it. A few of the agents are workers: in the
//! first half of the run one of them is killed in the middle of a task (its stream and connection are cut), in the second half another
//! falls silent (its stream stays). An agent whose stream breaks otherwise comes back to its session, as the SDK's do, so the
//! server may be killed and started again meanwhile; one whose session has ended has died, and nobody may.

mod line;
mod process;
mod trial;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use drumline::{Client, v1 as pb};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::line::{Agent, Order};
use self::process::Processes;
use self::trial::{Heard, Trial};
use super::load::Outcome;
use super::report::{Part, Report};
use super::tally::{Checked, Latencies, Tally};
use super::{Args, request};
use crate::cli::{Failure, files, screen};

/// How many agents come at once.
const AT_ONCE: usize = 64;
/// How many of the agents take tasks: two die, and there is another for each.
const WORKERS: usize = 4;
/// How many agents there are at least: the workers.
pub(super) const LEAST: usize = WORKERS;
/// How often a run looks at itself.
const LOOKS: u32 = 20;
/// Files that are open beside the connections.
const OTHER_FILES: u64 = 64;

/// What the agents of a run share.
#[derive(Debug)]
struct Crowd {
    run: String,
    namespace: String,
    ttl: Duration,
    /// How many streams are open.
    alive: AtomicUsize,
    /// Whether heartbeats are being counted.
    counting: AtomicBool,
    /// Round trips of heartbeats.
    beats: Mutex<Latencies>,
    answered: AtomicU64,
    /// Heartbeats that were due while the one before was not answered.
    late: AtomicU64,
    /// Streams that were opened again.
    resumed: AtomicU64,
    /// The longest that an agent was without a stream, in milliseconds.
    longest_absence: AtomicU64,
    /// How agents died that should not have.
    deaths: Mutex<Vec<String>>,
    /// What workers hear of their tasks.
    heard: mpsc::UnboundedSender<Heard>,
    /// Set when it is time to go home.
    home: watch::Sender<bool>,
}

impl Crowd {
    fn agent_id(&self, index: usize) -> String {
        format!("bench-{}-{index}", self.run)
    }

    /// The capability of the workers.
    fn work(&self) -> String {
        format!("bench-work-{}", self.run)
    }

    fn capability(&self, index: usize) -> String {
        if index < WORKERS {
            self.work()
        } else {
            format!("bench-idle-{}", self.run)
        }
    }

    /// A heartbeat was answered.
    fn beat(&self, round_trip: Duration) {
        if self.counting.load(Ordering::Relaxed) {
            self.answered.fetch_add(1, Ordering::Relaxed);
            self.beats
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .record(round_trip);
        }
    }

    fn died(&self, index: usize, why: &str) {
        let death = format!("{} died: {why}", self.agent_id(index));
        self.deaths.lock().unwrap_or_else(PoisonError::into_inner).push(death);
    }

    fn deaths(&self) -> Vec<String> {
        self.deaths.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Agents under way.
struct Running {
    crowd: Arc<Crowd>,
    agents: JoinSet<()>,
    /// Where workers are told to die.
    workers: Vec<mpsc::UnboundedSender<Order>>,
    connections: usize,
}

/// Measures it.
pub async fn run(run: &str, args: &Args) -> Result<Report, Failure> {
    let connections = args.connections_of_agents();
    files::enough_for(connections as u64 + OTHER_FILES)?;
    let processes = Processes::new(&args.server_pid);
    let before = processes.look()?;
    let client = args.connection.client().await?;
    let since = head(&client).await?;
    let (heard, hearing) = mpsc::unbounded_channel();
    let crowd = Arc::new(Crowd {
        run: run.to_owned(),
        namespace: args.connection.namespace.clone(),
        ttl: args.ttl,
        alive: AtomicUsize::new(0),
        counting: AtomicBool::new(false),
        beats: Mutex::new(Latencies::new()),
        answered: AtomicU64::new(0),
        late: AtomicU64::new(0),
        resumed: AtomicU64::new(0),
        longest_absence: AtomicU64::new(0),
        deaths: Mutex::default(),
        heard,
        home: watch::Sender::new(false),
    });
    let gathering = Instant::now();
    let mut running = gather(crowd.clone(), args, connections).await?;
    let gathered = gathering.elapsed();
    screen::note(&format!("{} agents are there after {gathered:.1?}", args.callers));

    let trial = Trial::new(client.clone(), crowd.clone(), hearing, running.workers.clone());
    let watched = watch_over(&crowd, args, &processes, trial).await;
    let after = processes.look().ok();
    let died = deaths_told(&client, &crowd, since).await;
    running.crowd.home.send_replace(true);
    running.workers.clear();
    while running.agents.join_next().await.is_some() {}

    let mut problems = watched.problems;
    problems.extend(crowd.deaths().into_iter().take(10));
    match died {
        Ok(told) if told == watched.killed => {}
        Ok(told) => problems.push(format!(
            "{told} sessions expired; {} agents were killed",
            watched.killed
        )),
        Err(error) => problems.push(format!("the log cannot be read: {error}")),
    }
    let mut report = part_of(args, &crowd, watched.measured, problems);
    report.fact("connections", running.connections);
    report.fact("gathered_ms", json!(u64::try_from(gathered.as_millis()).ok()));
    report.fact("alive_at_least", watched.alive_at_least);
    report.fact("heartbeats_late", crowd.late.load(Ordering::Relaxed));
    report.fact("streams_resumed", crowd.resumed.load(Ordering::Relaxed));
    report.fact("longest_absence_ms", crowd.longest_absence.load(Ordering::Relaxed));
    for (name, fact) in watched.facts {
        report.fact(name, fact);
    }
    if let (Some(before), Some(after)) = (before, after.flatten()) {
        for (name, fact) in after.since(&before, args.callers) {
            report.fact(name, fact);
        }
    }
    Ok(report)
}

fn part_of(args: &Args, crowd: &Crowd, measured: Duration, problems: Vec<String>) -> Report {
    let mut counted = Tally::new();
    counted.calls = crowd.answered.load(Ordering::Relaxed);
    counted.ops = counted.calls;
    counted.latencies = crowd.beats.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let checked = "all agents but those that were killed stayed alive, and the tasks of those were soon in other hands";
    let outcome = Outcome {
        counted,
        measured,
        checked: Checked::new(checked, problems),
    };
    let (part, checked) = Part::new(args.name(), &args.plan(), outcome);
    Report::of_one(part, checked)
}

/// Connects the agents, and waits until every one is welcomed.
async fn gather(crowd: Arc<Crowd>, args: &Args, connections: usize) -> Result<Running, Failure> {
    let servers = &args.connection.server;
    // An agent with a connection of its own also gives it up when it dies.
    let shared = match connections < args.callers {
        true => super::connect(args, servers, connections).await?,
        false => Vec::new(),
    };
    let mut workers = Vec::with_capacity(WORKERS);
    let mut orders = Vec::with_capacity(WORKERS);
    for _ in 0..WORKERS {
        let (sender, receiver) = mpsc::unbounded_channel();
        workers.push(sender);
        orders.push(receiver);
    }
    let come = (0..args.callers).map(|index| {
        let (crowd, shared) = (crowd.clone(), shared.get(index % connections.max(1)).cloned());
        let servers = servers.clone();
        async move {
            let mut agent = Agent::new(crowd, index, servers, args.connection.clone(), shared);
            agent.connect().await?;
            Ok::<Agent, Failure>(agent)
        }
    });
    let mut agents = JoinSet::new();
    let mut come = stream::iter(come).buffer_unordered(AT_ONCE);
    while let Some(agent) = come.try_next().await? {
        // Whoever is there begins with its heartbeats while others still come.
        let orders =
            (agent.index < WORKERS).then(|| std::mem::replace(&mut orders[agent.index], mpsc::unbounded_channel().1));
        agents.spawn(agent.live(orders));
    }
    drop(come);
    Ok(Running {
        crowd,
        agents,
        workers,
        connections,
    })
}

/// What was seen of a run.
struct Watched {
    measured: Duration,
    alive_at_least: usize,
    killed: usize,
    problems: Vec<String>,
    facts: Vec<(&'static str, Value)>,
}

/// Watches the agents until the time is over, while some are killed.
async fn watch_over(crowd: &Arc<Crowd>, args: &Args, processes: &Processes, trial: Trial) -> Watched {
    crowd.counting.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    let duration = args.duration();
    let trial = tokio::spawn(trial.run(duration));
    let (mut alive_at_least, mut timeline) = (usize::MAX, Vec::new());
    let second = Duration::from_secs(1).min(duration / LOOKS);
    let mut next_look = duration / LOOKS;
    while begin.elapsed() < duration {
        tokio::time::sleep(second).await;
        let alive = crowd.alive.load(Ordering::Relaxed);
        alive_at_least = alive_at_least.min(alive);
        let elapsed = begin.elapsed();
        if elapsed < next_look {
            continue;
        }
        next_look += duration / LOOKS;
        let seen = processes.look().ok().flatten();
        let resident = seen.as_ref().map(|seen| seen.resident_kib);
        let answered = crowd.answered.load(Ordering::Relaxed);
        screen::note(&format!(
            "{:.0} s: {alive} alive, {answered} heartbeats answered, server {} MiB",
            elapsed.as_secs_f64(),
            resident.map_or_else(|| "?".to_owned(), |kib| (kib / 1024).to_string())
        ));
        timeline.push(json!([elapsed.as_secs(), alive, resident]));
    }
    crowd.counting.store(false, Ordering::Relaxed);
    let measured = begin.elapsed();
    let tried = trial
        .await
        .unwrap_or_else(|error| trial::Tried::failed(&format!("the trials failed: {error}")));
    let mut facts = tried.facts;
    facts.push(("seconds_alive_resident_kib", json!(timeline)));
    Watched {
        measured,
        alive_at_least,
        killed: tried.killed,
        problems: tried.problems,
        facts,
    }
}

/// Where the log is.
async fn head(client: &Client) -> Result<i64, Failure> {
    let list = pb::ListEventsRequest {
        namespace: client.namespace(),
        page_size: 1,
        newest_first: true,
        ..Default::default()
    };
    let newest = client.stubs().events().list_events(request(list)).await;
    let newest = newest.map_err(drumline::Error::from)?.into_inner().events;
    Ok(newest.first().map_or(0, |event| event.position))
}

/// How many of the run's sessions have expired, as the log tells.
async fn deaths_told(client: &Client, crowd: &Crowd, since: i64) -> Result<usize, drumline::Error> {
    let mut list = pb::ListEventsRequest {
        namespace: client.namespace(),
        filter: Some(pb::EventFilter {
            event_types: vec!["agent.expired".into()],
            subject_prefix: format!("bench-{}-", crowd.run),
            ..Default::default()
        }),
        start_position: since + 1,
        ..Default::default()
    };
    let mut count = 0;
    loop {
        let page = client
            .stubs()
            .events()
            .list_events(request(list.clone()))
            .await?
            .into_inner();
        count += page.events.len();
        if page.next_page_token.is_empty() {
            return Ok(count);
        }
        list.page_token = page.next_page_token;
    }
}
