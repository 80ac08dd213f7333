//! `drumline demo-agent`: one of the four agents of the demo, in a process of its own.
//!
//! It can do every step of the review, so that whatever one agent leaves undone another can take over. It is an ordinary agent on the
//! SDK but for two things. It works at least `--pace-ms` on the first attempt of a step, and of the first chunks: a small
//! repository is reviewed in no time, and there would be nothing to watch, nor to kill. And it ends when its standard input does, so
//! that nothing of the demo is left should the demo itself be killed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use drumline::events::NewEvent;
use drumline::{Agent, Capability, Client, TaskContext, TaskFailure};
use futures::TryStreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::review::report::{self, Summary};
use super::review::{CheckKind, ChunkResult, Repository, markdown, review_chunk_with};
use super::work::{self, Chunk, Draft, FileList, Plan, Results, Written};
use crate::cli::Failure;

/// So many chunks are paced; the others go as fast as they can.
const PACED_CHUNKS: u32 = 12;
/// How often progress is said.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// How long the writer waits for the lock on the report, and how long it holds it without a renewal.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// What `drumline demo-agent` is told.
#[derive(Debug, clap::Args)]
pub struct DemoAgentArgs {
    /// The server
    #[arg(long)]
    server: String,
    /// The agent's id
    #[arg(long)]
    agent_id: String,
    /// The repository under review
    #[arg(long)]
    repo: PathBuf,
    /// Work at least so many milliseconds on a first attempt
    #[arg(long, default_value_t = 0)]
    pace_ms: u64,
}

/// Runs an agent of the demo until its standard input ends.
///
/// # Errors
/// When the repository cannot be opened, the server not be reached, or the agent not go on.
pub async fn run_agent(args: DemoAgentArgs) -> Result<(), Failure> {
    let repository = Repository::open(&args.repo).map_err(|error| Failure::message(error.to_string()))?;
    let client = Client::connect(&args.server).await?;
    let reviewer = Arc::new(Reviewer {
        repository,
        pace: Duration::from_millis(args.pace_ms),
        plan: Mutex::default(),
    });
    let (list, chunk, reduce, write) = (reviewer.clone(), reviewer.clone(), reviewer.clone(), reviewer);
    let about = |name: &str, text: &str| Capability::new(name).description(text).tag("demo");
    let agent = Agent::builder(&client, &args.agent_id)
        .max_concurrent_tasks(work::SLOTS)
        .label("demo", "review")
        .capability(about(work::LIST, "lists the files of a commit"), move |task, input| {
            list.clone().list(task, input)
        })
        .capability(about(work::CHUNK, "reviews some files"), move |task, input| {
            chunk.clone().chunk(task, input)
        })
        .capability(about(work::REDUCE, "puts reviews together"), move |task, input| {
            reduce.clone().reduce(task, input)
        })
        .capability(about(work::WRITE, "writes the report"), move |task, input| {
            write.clone().write(task, input)
        })
        .build();
    Ok(agent.run(crate::cli::signals::end_of_input()).await?)
}

/// What the list is asked for.
#[derive(Debug, Deserialize)]
struct Listing {
    commit: Option<String>,
}

/// What an agent of the demo knows.
struct Reviewer {
    repository: Repository,
    pace: Duration,
    /// The commit under review, listed once.
    plan: Mutex<Option<Arc<Plan>>>,
}

impl Reviewer {
    async fn list(self: Arc<Self>, task: TaskContext, input: Listing) -> Result<FileList, TaskFailure> {
        let pace = self.pace(&task, None);
        let plan = blocking(move || self.plan(input.commit)).await??;
        let list = plan.file_list();
        pace.rest(&task, &format!("{} files", list.files)).await;
        Ok(list)
    }

    async fn chunk(self: Arc<Self>, task: TaskContext, input: Chunk) -> Result<ChunkResult, TaskFailure> {
        let pace = self.pace(&task, Some(input.chunk));
        blocking(move || self.look_at(&task, &input, &pace)).await?
    }

    /// Looks at the files of a chunk, one after the other.
    fn look_at(&self, task: &TaskContext, input: &Chunk, pace: &Pace) -> Result<ChunkResult, TaskFailure> {
        let plan = self.plan(Some(input.commit.clone()))?;
        let unknown = || TaskFailure::new("no_such_chunk", format!("there is no chunk {}", input.chunk)).permanent();
        let request = plan.request(input).ok_or_else(unknown)?;
        let files = request.files.len();
        let mut said = Instant::now();
        let result = review_chunk_with(&self.repository, &request, plan.tests(), |done| {
            pace.hold(task, share(done, files));
            if said.elapsed() >= PROGRESS_EVERY {
                said = Instant::now();
                task.progress(share(done, files), format!("{done} of {files} files"));
            }
        })?;
        Ok(work::fitting(result)?)
    }

    async fn reduce(self: Arc<Self>, task: TaskContext, input: Results) -> Result<Summary, TaskFailure> {
        let pace = self.pace(&task, None);
        let results = match input.results {
            Value::Array(results) => results,
            // Too many to be handed around: they are paged through.
            _reference => recorded_results(&task).await?,
        };
        let count = results.len();
        let summary = blocking(move || -> Result<Summary, TaskFailure> {
            let plan = self.plan(input.commit)?;
            let summary = report::merge(&plan.snapshot, &CheckKind::ALL, &results);
            Ok(work::fitting_summary(summary)?)
        });
        let summary = summary.await??;
        pace.rest(&task, &format!("{count} results")).await;
        Ok(summary)
    }

    async fn write(self: Arc<Self>, task: TaskContext, input: Draft) -> Result<Written, TaskFailure> {
        let pace = self.pace(&task, None);
        let lock = task
            .lock(work::REPORT_LOCK)
            .ttl(LOCK_PATIENCE)
            .wait(LOCK_PATIENCE)
            .await?;
        let text = markdown::render(&input.title, &input.summary);
        let (path, attempt) = (PathBuf::from(&input.report), task.attempt());
        blocking(move || replace(&path, &text, attempt)).await??;
        pace.rest(&task, "the report is in its place").await;

        let findings = input.summary.findings_total;
        let document = json!({
            "report": input.report,
            "commit": input.summary.commit,
            "files": input.summary.files_reviewed,
            "findings": findings,
        });
        let client = task.client();
        let put = client
            .state()
            .put(work::REPORT_STATE, &document)
            .guard(lock.guard())
            .correlation_id(task.correlation_id())
            .await?;
        let checkpoint = NewEvent::new(work::CHECKPOINT)
            .subject(work::REPORT_STATE)
            .correlation_id(task.correlation_id())
            .causation_id(task.task_id())
            .data(&json!({ "state_version": put.version, "findings": findings }));
        client.events().publish(checkpoint).guard(lock.guard()).await?;
        let fencing_token = lock.token();
        // The completion itself is refused should the lock be lost by then.
        task.complete_under(lock);
        Ok(Written {
            report: input.report,
            findings,
            state_version: put.version,
            fencing_token,
        })
    }

    /// The plan of a commit, made when it is first asked for.
    fn plan(&self, commit: Option<String>) -> Result<Arc<Plan>, TaskFailure> {
        let mut kept = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some(plan) if plan.is_of(commit.as_deref()) => Ok(plan.clone()),
            _ => {
                let plan = Arc::new(Plan::new(&self.repository, commit)?);
                Ok(kept.insert(plan).clone())
            }
        }
    }

    /// How slow an attempt is to be.
    fn pace(&self, task: &TaskContext, chunk: Option<u32>) -> Pace {
        let paced = task.attempt() == 1 && chunk.is_none_or(|chunk| chunk < PACED_CHUNKS);
        Pace {
            began: Instant::now(),
            least: if paced { self.pace } else { Duration::ZERO },
        }
    }
}

/// How long an attempt takes at least.
#[derive(Clone, Copy, Debug)]
struct Pace {
    began: Instant,
    least: Duration,
}

impl Pace {
    /// Blocks until so much of the time is over. A handler that is to stop does not wait.
    fn hold(&self, task: &TaskContext, share: f64) {
        let until = self.least.mul_f64(share);
        while self.began.elapsed() < until && !task.is_cancelled() {
            std::thread::sleep((until - self.began.elapsed()).min(Duration::from_millis(20)));
        }
    }

    /// Waits until the time is over.
    async fn rest(&self, task: &TaskContext, message: &str) {
        let left = self.least.saturating_sub(self.began.elapsed());
        if !left.is_zero() {
            task.progress(0.5, message);
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = task.cancelled() => {}
            }
        }
    }
}

/// The results of the map, as the workflow has recorded them.
async fn recorded_results(task: &TaskContext) -> Result<Vec<Value>, TaskFailure> {
    let workflow = task.client().workflows().handle(&task.task().workflow_id);
    let mut subtasks = workflow.step_results(work::REVIEW_STEP);
    let (mut results, mut said) = (Vec::new(), Instant::now());
    while let Some(subtask) = subtasks.try_next().await? {
        results.push(drumline::payload::decode_opt(subtask.result.as_ref())?);
        if said.elapsed() >= PROGRESS_EVERY {
            said = Instant::now();
            task.progress(0.5, format!("{} results read", results.len()));
        }
    }
    Ok(results)
}

/// Puts a file into its place whole, so that nobody sees half a report, whoever is killed when.
fn replace(path: &Path, text: &str, attempt: i32) -> Result<(), TaskFailure> {
    let part = work::part(path, attempt);
    std::fs::write(&part, text)?;
    std::fs::rename(&part, path)?;
    Ok(())
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, TaskFailure> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

#[allow(clippy::cast_precision_loss)] // A share of progress.
fn share(done: usize, all: usize) -> f64 {
    done as f64 / all.max(1) as f64
}
