//! Clients, streams, lock guards and agents that have two addresses, when the server at the one that they use dies, hangs, refuses
//! or drains.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use drumline::events::{Filter, NewEvent, Start};
use drumline::v1::connect_hello::Session;
use drumline::v1::event_service_server::EventServiceServer;
use drumline::v1::lock_service_server::LockServiceServer;
use drumline::v1::{self as pb, connect_response::Frame as Down, subscribe_request};
use drumline::{AgentHandle, Client, Kind, Reason, TaskContext, TaskFailure};
use futures::StreamExt;
use tokio::sync::Semaphore;
use tonic::transport::Server;
use tonic::{Code, Status};

use crate::calls::{Events, Script, event};
use crate::fake::{Stream, Streams, refusal, session_service, soon};
use crate::gate::{self, Gate};
use crate::handlers::{LONG, agent, complete, json};
use crate::locks::{self, new_locks};

/// Longer than a busy machine is silent, and no longer than a test may wait.
const SILENCE: Duration = Duration::from_secs(1);
/// The TTL of sessions that are to be saved: a third of it is left when a silent server is left.
const TTL: Duration = Duration::from_secs(3);

/// How a server fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Dies,
    Hangs,
    Drains,
    /// It takes the call, and dies before it has answered.
    DiesAtWork,
}

async fn events() -> ([Events; 2], [Gate; 2]) {
    let events = [Events::default(), Events::default()];
    let router = |events: &Events| Server::builder().add_service(EventServiceServer::new(events.clone()));
    let gates = [
        Gate::before(router(&events[0])).await,
        Gate::before(router(&events[1])).await,
    ];
    (events, gates)
}

fn published(events: &Events) -> Vec<String> {
    events.published.lock().expect("not poisoned").clone()
}

async fn publish(client: &Client) -> drumline::Result<()> {
    client.events().publish(NewEvent::new("a.b")).await.map(drop)
}

#[tokio::test]
async fn a_call_goes_on_at_the_other_address_with_its_request_id() {
    for way in [Way::Dies, Way::Hangs, Way::Drains, Way::DiesAtWork] {
        let (events, gates) = events().await;
        let builder = gate::client(&gates).silence_timeout(SILENCE);
        let client = builder.connect().await.expect("a client");
        publish(&client).await.expect("published");
        let used = usize::from(published(&events[0]).is_empty());
        let other = 1 - used;
        assert!(published(&events[other]).is_empty(), "it stays with one");
        match way {
            Way::Dies => gates[used].kill(),
            Way::Hangs => gates[used].stall(),
            Way::Drains => {
                let draining = || refusal(Code::Unavailable, Reason::Draining, &[]);
                let mut refusals = events[used].refusals.lock().expect("not poisoned");
                *refusals = std::iter::repeat_with(draining).take(9).collect();
            }
            Way::DiesAtWork => events[used].holds.store(true, Ordering::SeqCst),
        }
        let begun = Instant::now();
        let call = tokio::spawn({
            let client = client.clone();
            async move { publish(&client).await }
        });
        if way == Way::DiesAtWork {
            soon(async {
                while published(&events[used]).len() < 2 {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
            .await;
            gates[used].kill();
        }
        soon(call).await.expect("no panic").expect("published at the other");
        assert!(way == Way::Hangs || begun.elapsed() < SILENCE, "{way:?}");
        if matches!(way, Way::Drains | Way::DiesAtWork) {
            let tried = published(&events[used]).pop();
            assert_eq!(published(&events[other]), Vec::from_iter(tried), "{way:?}");
        }
        let before = published(&events[used]).len();
        for _ in 0..5 {
            publish(&client).await.expect("published at the other");
        }
        assert_eq!(published(&events[other]).len(), 6, "{way:?}");
        assert_eq!(published(&events[used]).len(), before, "{way:?}: it is left alone");
    }
}

#[tokio::test]
async fn a_call_ends_by_its_deadline_and_names_every_address() {
    let (_events, gates) = events().await;
    let builder = gate::client(&gates).silence_timeout(Duration::from_millis(400));
    let client = builder.timeout(Duration::from_millis(1_500)).connect_lazy();
    let client = client.expect("a client");
    gates.iter().for_each(Gate::stall);
    let begun = Instant::now();
    let error = soon(publish(&client)).await.expect_err("nobody answers");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(matches!(error.kind(), Kind::Deadline | Kind::Transport), "{error:?}");
    assert!(error.is_indeterminate());
    for gate in &gates {
        assert!(error.message().contains(&gate.url), "{error}");
    }
}

#[tokio::test]
async fn nothing_was_changed_where_nobody_could_be_reached() {
    let (_events, gates) = events().await;
    gates.iter().for_each(Gate::kill);
    let builder = gate::client(&gates).timeout(Duration::from_millis(500));
    let client = builder.connect_lazy().expect("a client");
    // Until the ports are closed.
    let error = soon(async {
        loop {
            match publish(&client).await {
                Err(error) if !error.is_indeterminate() => break error,
                _ => {}
            }
        }
    })
    .await;
    assert_eq!(error.kind(), Kind::Transport);
}

#[tokio::test]
async fn a_client_connects_while_one_address_is_there() {
    let (events, gates) = events().await;
    gates[0].kill();
    for _ in 0..10 {
        let client = gate::client(&gates).connect().await.expect("a client");
        publish(&client).await.expect("published");
    }
    assert_eq!(published(&events[1]).len() + published(&events[0]).len(), 10);
}

#[tokio::test]
async fn a_subscription_goes_on_from_its_cursor_at_the_other_address() {
    for way in [Way::Dies, Way::Hangs] {
        let (events, gates) = events().await;
        let first: Script = vec![event(1), event(2)];
        for server in &events {
            server.holds.store(true, Ordering::SeqCst);
            *server.scripts.lock().expect("not poisoned") = vec![first.clone()];
        }
        let builder = gate::client(&gates).silence_timeout(SILENCE);
        let client = builder.connect().await.expect("a client");
        let mut stream = client.events().subscribe(Filter::all()).from(Start::Beginning).events();
        for position in [1, 2] {
            let event = soon(stream.next()).await.expect("an event").expect("an event");
            assert_eq!(event.position, position);
        }
        let starts = |server: &Events| server.starts.lock().expect("not poisoned").clone();
        let used = usize::from(starts(&events[0]).is_empty());
        let range = refusal(Code::OutOfRange, Reason::CursorOutOfRange, &[("problem", "AHEAD")]);
        *events[1 - used].scripts.lock().expect("not poisoned") = vec![vec![event(3), Err(range)]];
        match way {
            Way::Hangs => gates[used].stall(),
            _ => gates[used].kill(),
        }
        let next = soon(stream.next()).await.expect("an event").expect("an event");
        assert_eq!(next.position, 3, "{way:?}");
        let cursor = subscribe_request::Start::Cursor("c2".into());
        assert_eq!(starts(&events[1 - used]), [Some(cursor)], "{way:?}");
        let error = soon(stream.next()).await.expect("no silent end").expect_err("a gap");
        assert_eq!(error.reason(), Reason::CursorOutOfRange);
        assert!(soon(stream.next()).await.is_none());
    }
}

#[tokio::test]
async fn a_guard_renews_at_whichever_replica_answers() {
    for way in [Way::Dies, Way::Hangs] {
        let servers = [new_locks(), new_locks()];
        let router = |locks: &locks::Locks| Server::builder().add_service(LockServiceServer::new(locks.clone()));
        let gates = [
            Gate::before(router(&servers[0])).await,
            Gate::before(router(&servers[1])).await,
        ];
        let client = gate::client(&gates).connect().await.expect("a client");
        let guard = client.locks().acquire("r").await.expect("a lock");
        let renewed = |server: usize| servers[server].renewed.load(Ordering::SeqCst);
        let wait_for = |server: usize, count: usize| {
            soon(async move {
                while renewed(server) < count {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        };
        let used = tokio::select! {
            () = wait_for(0, 1) => 0,
            () = wait_for(1, 1) => 1,
        };
        match way {
            Way::Hangs => gates[used].stall(),
            _ => gates[used].kill(),
        }
        // More renewals than one lease has room for.
        wait_for(1 - used, 5).await;
        assert!(guard.is_held(), "{way:?}");
    }
}

/// How an agent's server fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Break {
    Dies,
    Hangs,
    /// What goes down goes on, but heartbeats are not answered: the server cannot write them.
    Mute,
    /// It says that it is stopping.
    Drains,
    /// It ends the stream.
    Ends,
}

async fn session_servers() -> ([Streams; 2], [Gate; 2]) {
    let ((first, streams), (second, others)) = (session_service(), session_service());
    let gates = [
        Gate::before(Server::builder().add_service(first)).await,
        Gate::before(Server::builder().add_service(second)).await,
    ];
    ([streams, others], gates)
}

/// The next stream at either, and where it is.
async fn next_of(streams: &mut [Streams; 2]) -> (usize, Stream) {
    let [first, second] = streams;
    tokio::select! {
        stream = first.next() => (0, stream),
        stream = second.next() => (1, stream),
    }
}

/// An agent whose handlers count themselves, and wait for the test or to be told to stop.
fn patient(client: &Client) -> (AgentHandle, Arc<Semaphore>, Arc<AtomicUsize>) {
    let (go, begun) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (gate, counter) = (go.clone(), begun.clone());
    let work = move |task: TaskContext, number: i64| {
        let (gate, counter) = (gate.clone(), counter.clone());
        async move {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::select! {
                () = task.cancelled() => Err(TaskFailure::new("told", "to stop")),
                permit = gate.acquire() => {
                    permit.expect("open").forget();
                    Ok(number)
                }
            }
        }
    };
    let agent = agent(client).capability("work", work).build().start();
    (agent.expect("an agent"), go, begun)
}

#[tokio::test]
async fn an_agent_resumes_elsewhere_and_its_handlers_go_on() {
    for way in [Break::Dies, Break::Hangs, Break::Mute, Break::Drains, Break::Ends] {
        let (mut streams, gates) = session_servers().await;
        let client = gate::client(&gates).connect().await.expect("a client");
        let (_agent, go, begun) = patient(&client);
        let (used, mut stream) = next_of(&mut streams).await;
        stream.welcome("s1", TTL);
        // One has its result said and not answered, the other is still at work.
        stream.assign("said", 1, "7", LONG);
        go.add_permits(1);
        let (_, said) = stream.result().await;
        stream.assign("running", 1, "8", LONG);
        while begun.load(Ordering::SeqCst) < 2 {
            tokio::select! {
                _ = stream.next_frame() => {}
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
        let broken = Instant::now();
        match way {
            Break::Dies => gates[used].kill(),
            Break::Hangs => gates[used].stall(),
            Break::Mute => stream.answers_beats = false,
            Break::Drains => {
                let drain = pb::connect_notice::Drain { reconnect_delay: None };
                let notice = Some(pb::connect_notice::Notice::Drain(drain));
                stream.answer(0, Down::Notice(pb::ConnectNotice { notice }));
            }
            Break::Ends => {
                stream.end(Status::unavailable("broken"));
                stream = streams[1 - used].next().await;
            }
        }
        if way != Break::Ends {
            stream = streams[1 - used].next().await;
        }
        assert!(broken.elapsed() < TTL, "{way:?}: {:?}", broken.elapsed());
        assert!(matches!(&stream.hello, Session::Resume(resume) if resume.session_id == "s1"));
        stream.welcome("s1", TTL);
        let (number, again) = stream.result().await;
        assert_eq!(said, again, "{way:?}: the same words, with the same request id");
        complete(&stream, number);
        go.add_permits(1);
        let (_, result) = stream.result().await;
        assert_eq!(
            (result.task_id.as_str(), json(result.result).as_str()),
            ("running", "8")
        );
        assert_eq!(begun.load(Ordering::SeqCst), 2, "{way:?}: nothing was begun twice");
    }
}

#[tokio::test]
async fn an_agent_whose_address_is_dead_begins_at_the_other() {
    let (mut streams, gates) = session_servers().await;
    let client = gate::client(&gates).connect_lazy().expect("a client");
    gates[0].kill();
    for _ in 0..5 {
        let (agent, _go, _begun) = patient(&client);
        let stream = streams[1].welcomed("s1", TTL).await;
        assert!(matches!(stream.hello, Session::Register(_)));
        soon(agent.ready()).await.expect("online");
    }
}

#[tokio::test]
async fn a_hello_of_its_own_that_comes_late_does_not_end_an_agent() {
    let (mut streams, gates) = session_servers().await;
    let client = gate::client(&gates).connect().await.expect("a client");
    let (agent, _go, _begun) = patient(&client);
    let (used, stream) = next_of(&mut streams).await;
    stream.welcome("s1", TTL);
    stream.end(Status::unavailable("broken"));
    // This hello gets no answer that the agent hears of.
    streams[1 - used].next().await.end(Status::unavailable("broken"));
    let superseded = || refusal(Code::Aborted, Reason::StreamSuperseded, &[]);
    let (_, stream) = next_of(&mut streams).await;
    stream.welcome("s1", TTL);
    stream.end(superseded());
    let (_, stream) = next_of(&mut streams).await;
    assert!(matches!(stream.hello, Session::Resume(_)));
    stream.welcome("s1", TTL);
    // Once for each such hello: the next is another process.
    stream.end(superseded());
    let error = soon(agent.wait()).await.expect_err("it cannot go on");
    assert_eq!(error.reason(), Reason::StreamSuperseded);
}
