//! Tasks through the public API, with agents that poll.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use drumline_proto::v1;
use drumline_proto::v1::task::State;
use tonic::{Request, Status};

use crate::support::wait::until;
use crate::support::{Stage, duration, json, metadata_of, on_every_composition, reason, reason_of, text_of};

/// An agent without a stream.
#[derive(Clone)]
struct Agent {
    stage: Stage,
    session_id: String,
}

impl Agent {
    async fn register(stage: &Stage, agent_id: &str, capability: &str, slots: i32, schema: &str) -> Agent {
        let request = v1::RegisterAgentRequest {
            namespace: stage.ns(),
            agent_id: agent_id.to_owned(),
            max_concurrent_tasks: slots,
            capabilities: vec![v1::Capability {
                name: capability.to_owned(),
                input_schema: schema.to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let registered = stage.registry().register_agent(request).await.expect("registered");
        Agent {
            stage: stage.clone(),
            session_id: registered.into_inner().session_id,
        }
    }

    async fn poll(&self, most: i32, wait: Duration) -> Vec<v1::TaskAssignment> {
        let request = v1::PollTasksRequest {
            namespace: self.stage.ns(),
            session_id: self.session_id.clone(),
            max_tasks: most,
            wait_timeout: duration(wait),
        };
        let polled = self.stage.tasks().poll_tasks(request).await.expect("polled");
        polled.into_inner().assignments
    }

    async fn accept(&self, assignment: &v1::TaskAssignment) -> Result<(), Status> {
        let request = v1::AcceptTaskRequest {
            namespace: self.stage.ns(),
            session_id: self.session_id.clone(),
            task_id: id(assignment),
            attempt_token: assignment.attempt_token.clone(),
            ..Default::default()
        };
        self.stage.tasks().accept_task(request).await.map(drop)
    }

    async fn complete(&self, assignment: &v1::TaskAssignment, result: &str) -> Result<(), Status> {
        let request = v1::CompleteTaskRequest {
            namespace: self.stage.ns(),
            session_id: self.session_id.clone(),
            task_id: id(assignment),
            attempt_token: assignment.attempt_token.clone(),
            result: json(result),
            ..Default::default()
        };
        self.stage.tasks().complete_task(request).await.map(drop)
    }
}

fn id(assignment: &v1::TaskAssignment) -> String {
    assignment.task.as_ref().expect("a task").task_id.clone()
}

fn wanted(stage: &Stage, task_id: &str, capability: &str) -> v1::DelegateTaskRequest {
    v1::DelegateTaskRequest {
        namespace: stage.ns(),
        task_id: task_id.to_owned(),
        capability: capability.to_owned(),
        input: json(r#"{"n":12345678901234567890}"#),
        ..Default::default()
    }
}

async fn delegate(stage: &Stage, request: v1::DelegateTaskRequest) -> Result<v1::Task, Status> {
    let answer = stage.tasks().delegate_task(request).await?.into_inner();
    Ok(answer.task.expect("a task"))
}

async fn get(stage: &Stage, task_id: &str) -> Result<v1::Task, Status> {
    let request = v1::GetTaskRequest {
        namespace: stage.ns(),
        task_id: task_id.to_owned(),
    };
    Ok(stage
        .tasks()
        .get_task(request)
        .await?
        .into_inner()
        .task
        .expect("a task"))
}

async fn cancel(stage: &Stage, task_id: &str) -> Result<(), Status> {
    let request = v1::CancelTaskRequest {
        namespace: stage.ns(),
        task_id: task_id.to_owned(),
        ..Default::default()
    };
    stage.tasks().cancel_task(request).await.map(drop)
}

#[tokio::test]
async fn a_task_goes_from_its_caller_to_an_agent_and_its_result_back() {
    on_every_composition(async |stage| {
        let agent = Agent::register(&stage, "a", "lint", 2, "").await;
        let task = delegate(&stage, wanted(&stage, "t", "lint")).await.unwrap();
        assert_eq!((task.state(), task.input), (State::Pending, None));
        let assignments = agent.poll(5, Duration::ZERO).await;
        assert_eq!(assignments.len(), 1);
        let task = assignments[0].task.as_ref().unwrap();
        assert_eq!(text_of(&task.input), r#"{"n":12345678901234567890}"#);
        assert_eq!((task.state(), assignments[0].attempt), (State::Assigned, 1));
        assert!(assignments[0].expires_in.unwrap().seconds >= 598);
        agent.accept(&assignments[0]).await.unwrap();
        assert!(
            agent.poll(5, Duration::ZERO).await.is_empty(),
            "what is accepted is not given again"
        );

        let waiter = {
            let stage = stage.clone();
            tokio::spawn(async move {
                let request = v1::AwaitTaskRequest {
                    namespace: stage.ns(),
                    task_id: "t".to_owned(),
                    wait_timeout: duration(Duration::from_secs(20)),
                };
                stage
                    .tasks()
                    .await_task(request)
                    .await
                    .unwrap()
                    .into_inner()
                    .task
                    .unwrap()
            })
        };
        agent.complete(&assignments[0], "[1,2]").await.unwrap();
        agent.complete(&assignments[0], "[3]").await.unwrap();
        let task = waiter.await.unwrap();
        assert_eq!(task.state(), State::Completed);
        assert_eq!(text_of(&task.result), "[1,2]");
        assert_eq!(text_of(&get(&stage, "t").await.unwrap().result), "[1,2]");
    })
    .await;
}

#[tokio::test]
async fn a_stale_attempt_is_refused_and_says_where_the_task_is() {
    on_every_composition(async |stage| {
        let agent = Agent::register(&stage, "a", "lint", 1, "").await;
        delegate(&stage, wanted(&stage, "t", "lint")).await.unwrap();
        let assignment = agent.poll(1, Duration::ZERO).await.remove(0);
        let forged = v1::TaskAssignment {
            attempt_token: "t#guess".to_owned(),
            ..assignment.clone()
        };
        let refused = agent.complete(&forged, "1").await.unwrap_err();
        assert_eq!(reason_of(&refused), "STALE_ATTEMPT");
        assert_eq!(metadata_of(&refused, "state"), "ASSIGNED");
        cancel(&stage, "t").await.unwrap();
        let refused = agent.complete(&assignment, "1").await.unwrap_err();
        assert_eq!(
            (reason_of(&refused), metadata_of(&refused, "state")),
            ("STALE_ATTEMPT".into(), "CANCELLED".into())
        );
        assert_eq!(reason(cancel(&stage, "t").await), "TASK_ENDED");
        assert_eq!(reason(cancel(&stage, "none").await), "TASK_NOT_FOUND");
        assert_eq!(reason(get(&stage, "none").await), "TASK_NOT_FOUND");
        // Another registration of the agent: the old session is told for good.
        Agent::register(&stage, "a", "lint", 1, "").await;
        assert_eq!(reason(agent.complete(&assignment, "1").await), "SESSION_SUPERSEDED");
    })
    .await;
}

#[tokio::test]
async fn delegating_again_with_the_same_request_id_is_the_same_task() {
    on_every_composition(async |stage| {
        let request = v1::DelegateTaskRequest {
            request_id: "r".to_owned(),
            ..wanted(&stage, "", "lint")
        };
        let first = delegate(&stage, request.clone()).await.unwrap();
        let again = delegate(&stage, request).await.unwrap();
        assert_eq!(first, again);
        let taken = wanted(&stage, &first.task_id, "lint");
        assert_eq!(reason(delegate(&stage, taken).await), "TASK_EXISTS");
    })
    .await;
}

#[tokio::test]
async fn every_fault_of_a_request_is_named() {
    on_every_composition(async |stage| {
        let request = v1::DelegateTaskRequest {
            namespace: stage.ns(),
            timeout: duration(Duration::from_secs(31 * 86_400)),
            deadline: duration(Duration::ZERO),
            retry_policy: Some(v1::RetryPolicy {
                max_attempts: 1_001,
                backoff_multiplier: f64::NAN,
                ..Default::default()
            }),
            ..Default::default()
        };
        let refused = delegate(&stage, request).await.unwrap_err();
        assert_eq!(reason_of(&refused), "INVALID_REQUEST");
        for field in [
            "capability",
            "timeout",
            "deadline",
            "retry_policy.max_attempts",
            "retry_policy.backoff_multiplier",
        ] {
            assert!(refused.message().contains(field), "{field} in {}", refused.message());
        }
    })
    .await;
}

#[tokio::test]
async fn an_input_that_no_agent_takes_is_refused() {
    on_every_composition(async |stage| {
        // Nobody is there yet: anything goes.
        delegate(&stage, wanted(&stage, "early", "lint")).await.unwrap();
        let schema = r#"{"type":"object","required":["path"]}"#;
        Agent::register(&stage, "a", "lint", 1, schema).await;
        let refused = delegate(&stage, wanted(&stage, "t", "lint")).await.unwrap_err();
        assert_eq!(reason_of(&refused), "INPUT_SCHEMA_MISMATCH");
        assert_eq!(metadata_of(&refused, "agent_id"), "a");
        let opaque = v1::DelegateTaskRequest {
            input: Some(v1::Payload {
                content: Some(v1::payload::Content::Data(vec![1].into())),
                content_type: String::new(),
            }),
            ..wanted(&stage, "t", "lint")
        };
        assert_eq!(reason(delegate(&stage, opaque).await), "INPUT_SCHEMA_MISMATCH");
        let fitting = v1::DelegateTaskRequest {
            input: json(r#"{"path":"a"}"#),
            ..wanted(&stage, "t", "lint")
        };
        delegate(&stage, fitting).await.unwrap();
        // One that takes anything is enough.
        Agent::register(&stage, "b", "lint", 1, "").await;
        delegate(&stage, wanted(&stage, "t2", "lint")).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_open_poll_is_given_a_task_at_once_and_a_closed_one_none() {
    on_every_composition(async |stage| {
        let agent = Agent::register(&stage, "a", "lint", 5, "").await;
        let polling = {
            let agent = agent.clone();
            tokio::spawn(async move { agent.poll(1, Duration::from_secs(20)).await })
        };
        let begin = Instant::now();
        // Only while the poll is open is the task assigned; until then it waits for it.
        delegate(&stage, wanted(&stage, "t", "lint")).await.unwrap();
        let assignments = polling.await.unwrap();
        assert_eq!(id(&assignments[0]), "t");
        assert!(begin.elapsed() < Duration::from_secs(5));

        // A poll that its caller leaves is over: soon after, tasks wait again.
        agent.accept(&assignments[0]).await.unwrap();
        let left = tokio::time::timeout(Duration::from_millis(300), agent.poll(1, Duration::from_secs(20))).await;
        assert!(left.is_err());
        let probes = AtomicU32::new(0);
        until("the end of the poll", || async {
            let id = format!("probe-{}", probes.fetch_add(1, Ordering::Relaxed));
            let task = delegate(&stage, wanted(&stage, &id, "lint")).await.unwrap();
            task.state() == State::Pending
        })
        .await;
        assert!(probes.into_inner() <= 3, "at most what the poll took was given");
    })
    .await;
}

#[tokio::test]
async fn a_watcher_sees_each_change_until_the_end() {
    on_every_composition(async |stage| {
        let agent = Agent::register(&stage, "a", "lint", 1, "").await;
        delegate(&stage, wanted(&stage, "t", "lint")).await.unwrap();
        let request = v1::WatchTaskRequest {
            namespace: stage.ns(),
            task_id: "t".to_owned(),
        };
        let mut changes = stage.tasks().watch_task(request).await.unwrap().into_inner();
        let first = changes.message().await.unwrap().unwrap().task.unwrap();
        assert_eq!(first.state(), State::Pending);
        let assignment = agent.poll(1, Duration::ZERO).await.remove(0);
        agent.accept(&assignment).await.unwrap();
        agent.complete(&assignment, "7").await.unwrap();
        let mut states = vec![first.state()];
        let mut last = first;
        while let Some(change) = changes.message().await.unwrap() {
            last = change.task.unwrap();
            states.push(last.state());
        }
        assert_eq!(
            states,
            [State::Pending, State::Assigned, State::Running, State::Completed]
        );
        assert_eq!(text_of(&last.result), "7");
        assert_eq!(text_of(&last.input), r#"{"n":12345678901234567890}"#);
    })
    .await;
}

#[tokio::test]
async fn a_list_is_newest_first_and_filtered_page_by_page() {
    on_every_composition(async |stage| {
        for number in 0..25 {
            let capability = ["lint", "test"][number % 2];
            delegate(&stage, wanted(&stage, &format!("t{number:02}"), capability))
                .await
                .unwrap();
        }
        let mut request = v1::ListTasksRequest {
            namespace: stage.ns(),
            capability: "lint".to_owned(),
            states: vec![State::Pending as i32],
            page_size: 4,
            ..Default::default()
        };
        let mut seen = Vec::new();
        loop {
            let page = stage.tasks().list_tasks(request.clone()).await.unwrap().into_inner();
            assert!(page.tasks.len() <= 4);
            seen.extend(page.tasks.into_iter().map(|task| task.task_id));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        let expected: Vec<String> = (0..25)
            .rev()
            .filter(|n| n % 2 == 0)
            .map(|n| format!("t{n:02}"))
            .collect();
        assert_eq!(seen, expected);
        request.states = vec![State::Completed as i32];
        assert_eq!(reason(stage.tasks().list_tasks(request).await), "INVALID_PAGE_TOKEN");
    })
    .await;
}

#[tokio::test]
async fn a_guard_that_is_stale_refuses_the_completion() {
    on_every_composition(async |stage| {
        let agent = Agent::register(&stage, "a", "lint", 1, "").await;
        delegate(&stage, wanted(&stage, "t", "lint")).await.unwrap();
        let assignment = agent.poll(1, Duration::ZERO).await.remove(0);
        let request = v1::CompleteTaskRequest {
            namespace: stage.ns(),
            session_id: agent.session_id.clone(),
            task_id: "t".to_owned(),
            attempt_token: assignment.attempt_token.clone(),
            guards: vec![v1::Guard {
                resource_id: "report".to_owned(),
                fencing_token: 7,
            }],
            ..Default::default()
        };
        assert_eq!(
            reason(stage.tasks().complete_task(request).await),
            "STALE_FENCING_TOKEN"
        );
        assert_eq!(get(&stage, "t").await.unwrap().state(), State::Assigned);
    })
    .await;
}

#[tokio::test]
async fn a_storm_of_tasks_over_many_agents_loses_none_and_runs_none_twice() {
    const AGENTS: usize = 60;
    const TASKS: usize = 600;
    on_every_composition(async |stage| {
        let mut agents = Vec::new();
        for number in 0..AGENTS {
            agents.push(Agent::register(&stage, &format!("a{number:03}"), "lint", 4, "").await);
        }
        let workers: Vec<_> = agents
            .into_iter()
            .map(|agent| {
                tokio::spawn(async move {
                    let mut done = Vec::new();
                    loop {
                        let assignments = agent.poll(4, Duration::from_secs(3)).await;
                        if assignments.is_empty() {
                            return done;
                        }
                        for assignment in assignments {
                            agent.complete(&assignment, "1").await.unwrap();
                            done.push((id(&assignment), assignment.attempt));
                        }
                    }
                })
            })
            .collect();
        let delegating = (0..TASKS).map(|number| {
            let stage = stage.clone();
            tokio::spawn(async move {
                let mut request = Request::new(wanted(&stage, &format!("t{number:04}"), "lint"));
                request.set_timeout(Duration::from_secs(60));
                stage.tasks().delegate_task(request).await.map(drop)
            })
        });
        for delegated in delegating.collect::<Vec<_>>() {
            delegated.await.unwrap().expect("a task is delegated however many are");
        }
        let mut done = Vec::new();
        for worker in workers {
            done.extend(worker.await.unwrap());
        }
        assert!(done.iter().all(|(_, attempt)| *attempt == 1), "nobody was late");
        assert_eq!(done.len(), TASKS);
        assert_eq!(done.into_iter().collect::<BTreeSet<_>>().len(), TASKS);
    })
    .await;
}
