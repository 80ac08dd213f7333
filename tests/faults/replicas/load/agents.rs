//! Those who delegate tasks and wait for them, and agents that work on them with unary calls, each of which may go to another replica. Some
//! attempts fail, some take longer than they may.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use drumline_proto::v1;
use tonic::Status;
use v1::task::State;

use super::caller::{Answer, Called, Caller, LONG, said};
use super::{Kind, Notes, Shared};
use crate::support::history::Recorded;
use crate::support::history::task::{Operation, Said};
use crate::support::{duration, json, reason_of, text_of};

/// How long an agent may be silent.
const TTL: Duration = Duration::from_secs(5);
/// How long one look for a task's end or for work waits.
const WAIT: Duration = Duration::from_secs(1);
/// How long an attempt of a task may take that is worked on for too long. Well above what a commit takes on a busy machine.
const SHORT: Duration = Duration::from_millis(1_500);

/// What an attempt is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Job {
    Complete = 0,
    FailFirst = 1,
    DawdleFirst = 2,
}

/// Delegates tasks until it is told to stop.
pub async fn delegate(mut caller: Caller) -> Notes {
    let mut notes = Notes::default();
    while !caller.shared.is_over() {
        caller.wander();
        let job = match caller.calls % 20 {
            4 => Job::FailFirst,
            9 => Job::DawdleFirst,
            _ => Job::Complete,
        };
        let task_id = format!("task-{}-{}", caller.number, caller.calls);
        let history = one_task(&mut caller, &task_id, job).await;
        notes.tasks.insert(task_id, history);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    notes
}

/// Delegates a task, and waits for its end.
async fn one_task(caller: &mut Caller, task_id: &str, job: Job) -> Vec<Recorded<Operation>> {
    let mut history = Vec::new();
    let request = v1::DelegateTaskRequest {
        namespace: caller.shared.namespace.clone(),
        request_id: format!("delegate-{task_id}"),
        task_id: task_id.to_owned(),
        capability: "work".to_owned(),
        input: json(&(job as u8).to_string()),
        timeout: (job == Job::DawdleFirst).then(|| duration(SHORT)).flatten(),
        accept_timeout: duration(Duration::from_secs(3)),
        retry_policy: Some(v1::RetryPolicy {
            max_attempts: 100,
            initial_backoff: duration(Duration::from_millis(20)),
            max_backoff: duration(Duration::from_millis(100)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let delegating = caller.call(LONG, Duration::ZERO, &request, |channel, request| async move {
        v1::task_service_client::TaskServiceClient::new(channel)
            .delegate_task(request)
            .await
    });
    let called = delegating.await;
    let sent = called.sent;
    let answered = match called.answer {
        Answer::Done(_) => Some(called.answered),
        Answer::Refused(status) => {
            caller
                .shared
                .complain(format!("DelegateTask was refused: {}", said(&status)));
            None
        }
        Answer::GivenUp => None,
    };
    history.push(Recorded {
        operation: Operation::Delegate,
        sent,
        answered,
    });
    while answered.is_some() && !look(caller, task_id, sent, &mut history).await {}
    history
}

/// Waits for the end of a task for a while; whether it has ended, or cannot be waited for.
async fn look(caller: &mut Caller, task_id: &str, delegated: Duration, history: &mut Vec<Recorded<Operation>>) -> bool {
    let request = v1::AwaitTaskRequest {
        namespace: caller.shared.namespace.clone(),
        task_id: task_id.to_owned(),
        wait_timeout: duration(WAIT),
    };
    let waiting = caller.call(LONG, WAIT, &request, |channel, request| async move {
        v1::task_service_client::TaskServiceClient::new(channel)
            .await_task(request)
            .await
    });
    let called = waiting.await;
    let task = match called.answer {
        Answer::Done(response) => response.task.expect("a task"),
        Answer::Refused(status) => {
            caller
                .shared
                .complain(format!("AwaitTask was refused: {}", said(&status)));
            return true;
        }
        Answer::GivenUp => return true,
    };
    let is_completed = task.state() == State::Completed;
    let result = is_completed.then(|| text_of(&task.result).parse().expect("a number"));
    history.push(Recorded {
        operation: Operation::Get {
            attempt: task.attempt,
            result,
        },
        sent: called.sent,
        answered: Some(called.answered),
    });
    if is_completed {
        caller.shared.succeeded(Kind::Task, delegated, called.answered, None);
        return true;
    }
    let goes_on = matches!(task.state(), State::Pending | State::Assigned | State::Running);
    if !goes_on {
        caller
            .shared
            .complain(format!("{task_id} ended as {:?}: {:?}", task.state(), task.error));
    }
    !goes_on
}

/// An agent at work.
struct Worker {
    caller: Caller,
    session_id: String,
    notes: Notes,
    /// The attempts that it has begun.
    begun: BTreeSet<(String, i32)>,
}

/// Works on tasks until there are none.
pub async fn work(caller: Caller) -> Notes {
    let mut worker = Worker {
        caller,
        session_id: String::new(),
        notes: Notes::default(),
        begun: BTreeSet::new(),
    };
    while worker.caller.shared.end.get().is_none() {
        if !worker.register().await {
            continue;
        }
        let beats = Beats::start(&worker);
        while worker.caller.shared.end.get().is_none() && !beats.is_over() {
            worker.poll(&beats).await;
        }
        if beats.is_over() {
            worker.notes.sessions_lost += 1;
        }
    }
    worker.notes
}

impl Worker {
    /// Opens a session; whether there is one.
    async fn register(&mut self) -> bool {
        let request = v1::RegisterAgentRequest {
            namespace: self.caller.shared.namespace.clone(),
            request_id: uuid::Uuid::new_v4().to_string(),
            agent_id: format!("worker-{}", self.caller.number),
            max_concurrent_tasks: 1,
            capabilities: vec![v1::Capability {
                name: "work".to_owned(),
                ..Default::default()
            }],
            session_ttl: duration(TTL),
            ..Default::default()
        };
        let registering = self
            .caller
            .call(LONG, Duration::ZERO, &request, |channel, request| async move {
                v1::registry_service_client::RegistryServiceClient::new(channel)
                    .register_agent(request)
                    .await
            });
        match registering.await.answer {
            Answer::Done(response) => {
                self.session_id = response.session_id;
                true
            }
            Answer::Refused(status) => {
                self.caller
                    .shared
                    .complain(format!("RegisterAgent was refused: {}", said(&status)));
                false
            }
            Answer::GivenUp => false,
        }
    }

    /// Takes tasks, and works on them.
    async fn poll(&mut self, beats: &Beats) {
        self.caller.wander();
        let request = v1::PollTasksRequest {
            namespace: self.caller.shared.namespace.clone(),
            session_id: self.session_id.clone(),
            max_tasks: 1,
            wait_timeout: duration(WAIT),
        };
        let polling = self.caller.call(LONG, WAIT, &request, |channel, request| async move {
            v1::task_service_client::TaskServiceClient::new(channel)
                .poll_tasks(request)
                .await
        });
        let called = polling.await;
        match called.answer {
            Answer::Done(response) => {
                for assignment in response.assignments {
                    self.take(assignment, called.answered, beats).await;
                }
            }
            Answer::Refused(status) => self.refused("PollTasks", &status, beats),
            Answer::GivenUp => {}
        }
    }

    /// Works on an attempt, unless that was begun before: what is not answered yet is given again.
    async fn take(&mut self, assignment: v1::TaskAssignment, at: Duration, beats: &Beats) {
        let task = assignment.task.as_ref().expect("a task");
        let (task_id, attempt) = (task.task_id.clone(), assignment.attempt);
        if !self.begun.insert((task_id.clone(), attempt)) {
            return;
        }
        let assigned = Operation::Assign {
            attempt,
            is_certain: true,
        };
        self.record(&task_id, assigned, Duration::ZERO, Some(at));
        let request = v1::AcceptTaskRequest {
            namespace: self.caller.shared.namespace.clone(),
            session_id: self.session_id.clone(),
            request_id: uuid::Uuid::new_v4().to_string(),
            task_id: task_id.clone(),
            attempt_token: assignment.attempt_token.clone(),
        };
        let accepting = self
            .caller
            .call(LONG, Duration::ZERO, &request, |channel, request| async move {
                v1::task_service_client::TaskServiceClient::new(channel)
                    .accept_task(request)
                    .await
            });
        if let Answer::Refused(status) = accepting.await.answer {
            self.refused("AcceptTask", &status, beats);
            return;
        }
        let job = text_of(&task.input);
        if job == (Job::DawdleFirst as u8).to_string() && attempt == 1 {
            tokio::time::sleep(SHORT + Duration::from_millis(500)).await;
        }
        let fails = job == (Job::FailFirst as u8).to_string() && attempt == 1;
        self.say(&task_id, attempt, &assignment.attempt_token, fails, beats)
            .await;
    }

    /// Says the last word on an attempt.
    async fn say(&mut self, task_id: &str, attempt: i32, token: &str, fails: bool, beats: &Beats) {
        // Of this agent and this attempt alone.
        let result = u64::try_from(attempt).expect("a number") * 100 + self.caller.number as u64;
        if fails {
            let request = v1::FailTaskRequest {
                namespace: self.caller.shared.namespace.clone(),
                session_id: self.session_id.clone(),
                request_id: uuid::Uuid::new_v4().to_string(),
                task_id: task_id.to_owned(),
                attempt_token: token.to_owned(),
                error: Some(v1::TaskError {
                    kind: "test".to_owned(),
                    ..Default::default()
                }),
            };
            let failing = self
                .caller
                .call(LONG, Duration::ZERO, &request, |channel, request| async move {
                    v1::task_service_client::TaskServiceClient::new(channel)
                        .fail_task(request)
                        .await
                });
            let called = failing.await;
            return self.said(task_id, attempt, None, &called, beats);
        }
        let request = v1::CompleteTaskRequest {
            namespace: self.caller.shared.namespace.clone(),
            session_id: self.session_id.clone(),
            request_id: uuid::Uuid::new_v4().to_string(),
            task_id: task_id.to_owned(),
            attempt_token: token.to_owned(),
            result: json(&result.to_string()),
            guards: Vec::new(),
        };
        let completing = self
            .caller
            .call(LONG, Duration::ZERO, &request, |channel, request| async move {
                v1::task_service_client::TaskServiceClient::new(channel)
                    .complete_task(request)
                    .await
            });
        let called = completing.await;
        self.said(task_id, attempt, Some(result), &called, beats);
    }

    fn said<R>(&mut self, task_id: &str, attempt: i32, result: Option<u64>, called: &Called<R>, beats: &Beats) {
        let outcome = match &called.answer {
            Answer::Done(_) => Said::Recorded,
            Answer::GivenUp => Said::Unknown,
            Answer::Refused(status) => {
                self.refused("the last word", status, beats);
                Said::Stale
            }
        };
        let say = |outcome| Operation::Say {
            attempt,
            result,
            outcome,
        };
        if outcome != Said::Unknown {
            self.record(task_id, say(outcome), called.sent, Some(called.answered));
        }
        if outcome != Said::Recorded {
            self.record(task_id, Operation::End { attempt }, Duration::ZERO, None);
        }
        if outcome == Said::Unknown || (outcome == Said::Stale && called.is_doubtful) {
            self.record(task_id, say(Said::Unknown), called.sent, None);
        }
    }

    fn refused(&self, what: &str, status: &Status, beats: &Beats) {
        match reason_of(status).as_str() {
            "STALE_ATTEMPT" => {}
            "SESSION_ENDED" => beats.over.store(true, Ordering::Relaxed),
            _ => self
                .caller
                .shared
                .complain(format!("{what} was refused: {}", said(status))),
        }
    }

    fn record(&mut self, task_id: &str, operation: Operation, sent: Duration, answered: Option<Duration>) {
        let history = self.notes.tasks.entry(task_id.to_owned()).or_default();
        history.push(Recorded {
            operation,
            sent,
            answered,
        });
    }
}

/// The heart of an agent.
struct Beats {
    beating: tokio::task::JoinHandle<()>,
    /// Whether the session has ended.
    over: Arc<AtomicBool>,
}

impl Beats {
    fn start(worker: &Worker) -> Beats {
        let over = Arc::new(AtomicBool::new(false));
        let caller = Caller::new(&worker.caller.shared, worker.caller.number);
        let request = v1::HeartbeatRequest {
            namespace: caller.shared.namespace.clone(),
            session_id: worker.session_id.clone(),
        };
        let beating = tokio::spawn(beat(caller, request, Arc::clone(&over)));
        Beats { beating, over }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

async fn beat(mut caller: Caller, request: v1::HeartbeatRequest, over: Arc<AtomicBool>) {
    loop {
        let beating = caller.call(TTL, Duration::ZERO, &request, |channel, request| async move {
            v1::registry_service_client::RegistryServiceClient::new(channel)
                .heartbeat(request)
                .await
        });
        match beating.await.answer {
            Answer::Refused(status) if reason_of(&status) == "SESSION_ENDED" => {
                over.store(true, Ordering::Relaxed);
                return;
            }
            Answer::Refused(status) => complain_of(&caller.shared, &status),
            Answer::Done(_) | Answer::GivenUp => {}
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}

fn complain_of(shared: &Shared, status: &Status) {
    shared.complain(format!("Heartbeat was refused: {}", said(status)));
}
