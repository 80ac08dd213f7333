//! Work over a session's stream: what is pushed down, what is said up, and what a broken stream changes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use drumline_proto::v1;
use v1::connect_request::Frame as Up;
use v1::connect_response::Frame as Down;

use crate::support::agent::{Line, registration};
use crate::support::{Stage, duration, json, on_every_composition};

async fn delegate(stage: &Stage) -> String {
    let request = v1::DelegateTaskRequest {
        namespace: stage.ns(),
        capability: "work".into(),
        input: json("{\"n\":1}"),
        ..Default::default()
    };
    let response = stage.tasks().delegate_task(request).await.unwrap().into_inner();
    response.task.expect("a task").task_id
}

async fn ended(stage: &Stage, task_id: &str) -> v1::Task {
    let request = v1::AwaitTaskRequest {
        namespace: stage.ns(),
        task_id: task_id.into(),
        wait_timeout: duration(Duration::from_secs(10)),
    };
    let response = stage.tasks().await_task(request).await.unwrap().into_inner();
    response.task.expect("a task")
}

/// A registration of an agent that may be silent for long: these tests are about its words, not its signs of life.
fn steady(stage: &Stage, agent_id: &str) -> v1::RegisterAgentRequest {
    v1::RegisterAgentRequest {
        session_ttl: duration(Duration::from_secs(60)),
        ..registration(stage, agent_id)
    }
}

async fn assignment(line: &mut Line) -> v1::TaskAssignment {
    match line.answer().await.unwrap().unwrap().frame {
        Some(Down::Assignment(assignment)) => assignment,
        other => panic!("not an assignment: {other:?}"),
    }
}

fn accept(line: &Line, number: u64, assignment: &v1::TaskAssignment) {
    let request = v1::AcceptTaskRequest {
        task_id: task_id(assignment),
        attempt_token: assignment.attempt_token.clone(),
        ..Default::default()
    };
    line.say(number, Up::AcceptTask(request));
}

fn complete(line: &Line, number: u64, assignment: &v1::TaskAssignment) {
    let request = v1::CompleteTaskRequest {
        task_id: task_id(assignment),
        attempt_token: assignment.attempt_token.clone(),
        result: json("true"),
        ..Default::default()
    };
    line.say(number, Up::CompleteTask(request));
}

fn task_id(assignment: &v1::TaskAssignment) -> String {
    assignment.task.as_ref().expect("a task").task_id.clone()
}

#[tokio::test]
async fn a_task_is_pushed_and_its_words_need_not_wait_for_each_other() {
    on_every_composition(|stage| async move {
        let request = v1::RegisterAgentRequest {
            max_concurrent_tasks: 100,
            ..steady(&stage, "a")
        };
        // What waits for the agent is pushed after the welcome, what comes later when it comes.
        let mut tasks = vec![delegate(&stage).await];
        let mut line = Line::register(&stage, request).await.unwrap();
        for _ in 1..50 {
            tasks.push(delegate(&stage).await);
        }
        for number in 0..tasks.len() as u64 {
            let assignment = assignment(&mut line).await;
            assert_eq!(assignment.task.as_ref().unwrap().input, json("{\"n\":1}"));
            accept(&line, 2 * number + 10, &assignment);
            complete(&line, 2 * number + 11, &assignment);
        }
        // Answers come as they come; a task's words were decided in the order in which they were said.
        let mut positions = BTreeMap::new();
        for _ in 0..2 * tasks.len() {
            let answer = line.answer().await.unwrap().unwrap();
            let position = match answer.frame {
                Some(Down::AcceptTask(accepted)) => accepted.position,
                Some(Down::CompleteTask(completed)) => completed.position,
                other => panic!("unexpected: {other:?}"),
            };
            positions.insert(answer.request_number, position);
        }
        let expected: Vec<u64> = (10..10 + 2 * tasks.len() as u64).collect();
        assert_eq!(positions.keys().copied().collect::<Vec<_>>(), expected);
        let in_order = |number: &u64| positions[number] < positions[&(number + 1)];
        assert!(expected.iter().step_by(2).all(in_order), "{positions:?}");
        for task_id in tasks {
            assert_eq!(ended(&stage, &task_id).await.state(), v1::task::State::Completed);
        }
    })
    .await;
}

#[tokio::test]
async fn after_a_resume_what_was_not_answered_is_sent_again() {
    on_every_composition(|stage| async move {
        let request = v1::RegisterAgentRequest {
            max_concurrent_tasks: 3,
            ..steady(&stage, "a")
        };
        let mut line = Line::register(&stage, request).await.unwrap();
        let (accepted, unanswered) = (delegate(&stage).await, delegate(&stage).await);
        let first = assignment(&mut line).await;
        let second = assignment(&mut line).await;
        assert_eq!((task_id(&first), task_id(&second)), (accepted, unanswered.clone()));
        accept(&line, 2, &first);
        line.answer().await.unwrap().unwrap();
        let session_id = line.session_id();
        drop(line);
        let mut line = Line::resume(&stage, &session_id).await.unwrap();
        let again = assignment(&mut line).await;
        assert_eq!(
            (task_id(&again), &again.attempt_token),
            (unanswered, &second.attempt_token)
        );
        complete(&line, 3, &first);
        complete(&line, 4, &again);
        for number in [3, 4] {
            let answer = line.answer().await.unwrap().unwrap();
            assert_eq!(answer.request_number, number);
            assert!(matches!(answer.frame, Some(Down::CompleteTask(_))), "{answer:?}");
        }
        // What comes after the resume is sent once.
        let later = delegate(&stage).await;
        let assignment = assignment(&mut line).await;
        assert_eq!(task_id(&assignment), later);
        complete(&line, 5, &assignment);
        assert_eq!(line.answer().await.unwrap().unwrap().request_number, 5);
    })
    .await;
}

#[tokio::test]
async fn the_work_of_an_agent_whose_stream_broke_is_in_other_hands_soon() {
    on_every_composition(|stage| async move {
        let mut first = Line::register(&stage, steady(&stage, "first")).await.unwrap();
        let id = delegate(&stage).await;
        let lost = assignment(&mut first).await;
        accept(&first, 2, &lost);
        first.answer().await.unwrap().unwrap();
        let mut second = Line::register(&stage, steady(&stage, "second")).await.unwrap();
        let began = Instant::now();
        drop(first);
        // It keeps itself alive while it waits.
        let taken = loop {
            second.beat(2);
            match second.hear().await.unwrap().unwrap().frame {
                Some(Down::Assignment(assignment)) => break assignment,
                Some(Down::Nonce(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                other => panic!("unexpected: {other:?}"),
            }
        };
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "it took {:?}",
            began.elapsed()
        );
        assert_eq!((task_id(&taken), taken.attempt), (id.clone(), 2));
        complete(&second, 3, &taken);
        assert_eq!(ended(&stage, &id).await.agent_id, "second");
    })
    .await;
}

#[tokio::test]
async fn an_agent_is_told_to_stop_what_nobody_waits_for() {
    on_every_composition(|stage| async move {
        let mut line = Line::register(&stage, steady(&stage, "a")).await.unwrap();
        let task = delegate(&stage).await;
        let assigned = assignment(&mut line).await;
        let request = v1::CancelTaskRequest {
            namespace: stage.ns(),
            task_id: task.clone(),
            ..Default::default()
        };
        stage.tasks().cancel_task(request).await.unwrap();
        let frame = line.answer().await.unwrap().unwrap().frame;
        let expected = v1::TaskCancellation {
            task_id: task,
            attempt: 1,
            cause: "CANCELLED".into(),
        };
        assert_eq!(frame, Some(Down::Cancellation(expected)));
        complete(&line, 2, &assigned);
        let answer = line.answer().await.unwrap().unwrap();
        let Some(Down::Error(error)) = answer.frame else {
            panic!("not an error: {answer:?}");
        };
        assert_eq!(error.reason(), v1::Reason::StaleAttempt);
    })
    .await;
}

#[tokio::test]
async fn an_agent_is_told_of_a_lock_that_it_lost() {
    on_every_composition(|stage| async move {
        let mut line = Line::register(&stage, steady(&stage, "a")).await.unwrap();
        let request = v1::AcquireLockRequest {
            namespace: stage.ns(),
            session_id: line.session_id(),
            resource_id: "resource".into(),
            ttl: duration(Duration::from_secs(1)),
            ..Default::default()
        };
        let lock = stage
            .locks()
            .acquire_lock(request)
            .await
            .unwrap()
            .into_inner()
            .lock
            .unwrap();
        let lost = loop {
            line.beat(2);
            match line.hear().await.unwrap().unwrap().frame {
                Some(Down::Notice(notice)) => break notice.notice,
                Some(Down::Nonce(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                other => panic!("unexpected: {other:?}"),
            }
        };
        let expected = v1::connect_notice::LockLost {
            resource_id: "resource".into(),
            fencing_token: lock.fencing_token,
        };
        assert_eq!(lost, Some(v1::connect_notice::Notice::LockLost(expected)));
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_drains_keeps_its_work_and_is_given_no_more() {
    on_every_composition(|stage| async move {
        let request = v1::RegisterAgentRequest {
            max_concurrent_tasks: 2,
            ..steady(&stage, "a")
        };
        let mut line = Line::register(&stage, request).await.unwrap();
        delegate(&stage).await;
        let kept = assignment(&mut line).await;
        let say = |status: v1::agent::Status| {
            Up::UpdateAgent(v1::UpdateAgentRequest {
                agent: Some(v1::Agent {
                    status: status as i32,
                    ..Default::default()
                }),
                ..Default::default()
            })
        };
        line.say(2, say(v1::agent::Status::Draining));
        line.answer().await.unwrap().unwrap();
        let waiting = delegate(&stage).await;
        complete(&line, 3, &kept);
        let answer = line.answer().await.unwrap().unwrap();
        assert!(matches!(answer.frame, Some(Down::CompleteTask(_))), "{answer:?}");
        line.say(4, say(v1::agent::Status::Active));
        let frames = [
            line.answer().await.unwrap().unwrap(),
            line.answer().await.unwrap().unwrap(),
        ];
        let assigned = frames.iter().find_map(|frame| match &frame.frame {
            Some(Down::Assignment(assignment)) => Some(task_id(assignment)),
            _ => None,
        });
        assert_eq!(assigned, Some(waiting), "what waited comes once it takes work again");
    })
    .await;
}
