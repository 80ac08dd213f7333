//! What a feed knows of epochs, whenever it is opened.

use std::sync::Arc;
use std::time::Duration;

use super::{Cursor, Feed, Tail};
use crate::config::Retention;
use crate::error::Reason;
use crate::events::Draft;
use crate::lane::{Call, Lanes, Urgency};
use crate::machine::simulated;
use crate::sessions::gap::Gap;
use crate::store::Store;
use crate::store::simulated::{Database, Weather};

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
    let _machine = simulated::Simulated::new(1);
    for delay in 0..60 {
        let database = Database::new(true);
        database.set_weather(Weather {
            latency: Duration::from_millis(10)..Duration::from_millis(11),
            ..Weather::calm()
        });
        let server = Server::over(&database).await;
        let opening = server.clone();
        let opened = tokio::spawn(async move { opening.feed().await });
        tokio::time::sleep(Duration::from_millis(delay)).await;
        server.publish().await;
        let feed = opened.await.expect("no panic");
        server.publish().await;
        // What a standby did not hear of, and was lost with the epoch before.
        let lost = Cursor {
            epoch: feed.epoch() - 1,
            position: 1,
        };
        let refusal = feed.check(lost).expect_err("it is lost");
        assert_eq!(refusal.reason(), Reason::CursorOutOfRange, "after {delay} ms");
    }
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
