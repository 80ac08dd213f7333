//! What a lane makes of a store that is silent.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Call, Decision, Lanes, Urgency, World};
use crate::config::Retention;
use crate::error::Refusal;
use crate::machine::simulated;
use crate::sessions::gap::Gap;
use crate::store::Store;
use crate::store::simulated::{Database, Weather};
use crate::tail::Tail;

/// Longer than a store may be silent.
const LONG: Duration = Duration::from_millis(1_500);

async fn lanes(database: &Database, gap: &Gap) -> Lanes {
    let store = Store::Simulated(database.connect());
    let tail = Tail::alone(store.clone()).await;
    Lanes::new(store, tail, gap.clone(), Retention::default())
}

async fn run(lanes: &Lanes, job: impl FnMut(&mut World) -> Decision<()> + Send + 'static) -> Result<(), Refusal> {
    let call = Call::internal(&"default".into(), Urgency::Normal);
    lanes.run(call, |_| {}, job).await.map(|_| ())
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_silent_in_the_middle_of_a_batch_is_a_gap() {
    let _machine = simulated::Simulated::new(1);
    let (database, gap) = (Database::new(true), Gap::new());
    let lanes = lanes(&database, &gap).await;
    let frozen = database.clone();
    let mut runs = 0;
    let job = move |world: &mut World| {
        runs += 1;
        if runs == 1 {
            frozen.freeze();
        }
        world.locks.get(&"gate".to_owned()).map(|_| ())
    };
    let thaws = async {
        sleep(LONG).await;
        database.thaw();
    };
    let (ran, ()) = tokio::join!(run(&lanes, job), thaws);
    ran.expect("decided in the end");
    assert!(gap.end().elapsed() < LONG / 2, "its end is the gap's");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_only_fails_is_silent() {
    let _machine = simulated::Simulated::new(1);
    let (database, gap) = (Database::new(true), Gap::new());
    let lanes = lanes(&database, &gap).await;
    database.set_weather(Weather {
        lost: 1.0,
        ..Weather::calm()
    });
    let began = Instant::now();
    while began.elapsed() < LONG {
        run(&lanes, |_| Ok(())).await.expect_err("the store does not hear it");
        sleep(Duration::from_millis(100)).await;
    }
    database.set_weather(Weather::calm());
    run(&lanes, |_| Ok(())).await.expect("the store is there");
    assert!(gap.end().duration_since(began) >= LONG, "it ends with the first answer");
}
