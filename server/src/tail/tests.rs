//! What readers are told where an epoch begins, and where history was lost.

use std::sync::Arc;
use std::time::Duration;

use super::{Cursor, Feed, Filter, Tail};
use crate::config::Retention;
use crate::error::Reason;
use crate::events::Draft;
use crate::lane::{Call, Commit, Lanes, Urgency};
use crate::machine::simulated;
use crate::sessions::gap::Gap;
use crate::store::simulated::{Database, Weather};
use crate::store::{Head, Store};
use crate::time::Time;

/// A database to which everything takes ten milliseconds.
fn far_away() -> Database {
    let database = Database::new(true);
    database.set_weather(Weather {
        latency: Duration::from_millis(10)..Duration::from_millis(11),
        ..Weather::calm()
    });
    database
}

/// A server with nothing but a lane and a tail.
#[derive(Clone)]
struct Server {
    tail: Tail,
    lanes: Lanes,
}

impl Server {
    async fn over(database: &Database) -> Server {
        let store = Store::Simulated(database.connect());
        let tail = Tail::alone(store.clone()).await;
        let lanes = Lanes::new(store, tail.clone(), Gap::new(), Retention::default());
        Server { tail, lanes }
    }

    async fn feed(&self) -> Arc<Feed> {
        self.tail.feed(&"default".into()).await.expect("the store is there")
    }

    async fn publish(&self) {
        let call = Call::internal(&"default".into(), Urgency::Normal);
        let publish = self.lanes.run(
            call,
            |_| {},
            |world| {
                world.emit(Draft::new("news", "today"));
                Ok(())
            },
        );
        publish.await.expect("the store is there");
    }
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_is_opened_while_an_epoch_begins_knows_where() {
    for seed in 0..500 {
        let _machine = simulated::Simulated::new(seed);
        let database = Database::new(true);
        database.set_weather(Weather {
            latency: Duration::from_millis(1)..Duration::from_millis(20),
            ..Weather::calm()
        });
        let server = Server::over(&database).await;
        let opening = server.clone();
        let opened = tokio::spawn(async move { opening.feed().await });
        server.publish().await;
        let feed = opened.await.expect("no panic");
        server.publish().await;
        // What a standby did not hear of, and was lost with the epoch before.
        let lost = Cursor {
            epoch: feed.epoch() - 1,
            position: 1,
        };
        let refusal = feed.check(lost).expect_err("it is lost");
        assert_eq!(refusal.reason(), Reason::CursorOutOfRange, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_told_of_what_was_lost_is_not_told_what_came_instead() {
    let _machine = simulated::Simulated::new(1);
    let mut told = 0;
    for delay in 0..100 {
        let database = far_away();
        let server = Server::over(&database).await;
        server.publish().await;
        let feed = server.feed().await;
        let mut events = feed.subscribe(Filter::default());
        let head = Head {
            epoch: feed.epoch(),
            batch: 2,
            position: 2,
            ..Head::new(Time(0))
        };
        // The hint of another server, of a commit that the standby has not heard of.
        let event = Arc::new(Draft::new("news", "lost").at(2, Time(0)));
        let hint = Arc::new(Commit::new("default".into(), &head, vec![event]));
        database.fail_over(0);
        let publishing = server.clone();
        let published = tokio::spawn(async move { publishing.publish().await });
        tokio::time::sleep(Duration::from_millis(delay)).await;
        server.tail.shared.take(hint);
        published.await.expect("no panic");
        server.publish().await;
        // The store is asked what there is.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let subjects: Vec<String> = std::iter::from_fn(|| events.try_next())
            .map(|delivery| delivery.event.subject.clone())
            .collect();
        if subjects.first().is_some_and(|first| first == "lost") {
            told += 1;
            assert_eq!(
                (subjects.len(), feed.retired().is_some()),
                (1, true),
                "after {delay} ms"
            );
        } else {
            assert_eq!(subjects, ["today", "today"], "after {delay} ms");
        }
    }
    assert!((5..95).contains(&told), "{told} times it came first");
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_an_epoch_in_which_nothing_has_happened_yet_is_good_everywhere() {
    let _machine = simulated::Simulated::new(1);
    let database = Database::new(true);
    let old = Server::over(&database).await;
    let before = old.feed().await.epoch();
    database.fail_over(0);
    let new = Server::over(&database).await;
    let cursor = Cursor::decode(&new.feed().await.cursor(0), "cursor").expect("a cursor");
    assert!(cursor.epoch > before);
    old.feed().await.check(cursor).expect("nothing was lost");
}
