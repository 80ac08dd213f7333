//! Increments counters by compare-and-swap.

use drumline_proto::v1;
use serde_json::json;

use super::{Actor, PATIENCE, one_of, standing};
use crate::sim::net::{door, payload};

const COUNTERS: [&str; 2] = ["apples", "pears"];

pub(super) async fn run(mut actor: Actor) {
    while actor.works() {
        let state_id = one_of(&COUNTERS);
        if let Some((version, count)) = read(&mut actor, state_id).await {
            actor.rest(30).await;
            write(&mut actor, state_id, version, count + 1).await;
        }
        actor.rest(300).await;
    }
}

/// The version and the count. What was committed before the call is seen by it.
async fn read(actor: &mut Actor, state_id: &str) -> Option<(i64, i64)> {
    let known = {
        let mut ledger = actor.ledger();
        let space = ledger.space(&actor.namespace);
        (space.states.count(state_id), space.log.losses())
    };
    let request = v1::GetStateRequest {
        namespace: actor.namespace.clone(),
        state_id: state_id.to_owned(),
        version: 0,
    };
    let read = match actor.client.ask(PATIENCE, request, door!(states.get_state)).await {
        Ok(read) => read.state.map(|state| {
            let count = state.payload.as_ref().map_or(0, count_of);
            (state.version, count)
        }),
        Err(failure) if failure.reason() == "STATE_NOT_FOUND" => Some((0, 0)),
        Err(failure) => {
            actor.failed("read", &failure);
            None
        }
    };
    let count = read?.1;
    actor.done("read", state_id, |space| {
        if count < known.0 && space.log.losses() == known.1 {
            return Err(format!("read {count} of {state_id} after it was {}", known.0));
        }
        Ok(())
    });
    read
}

fn count_of(payload: &v1::Payload) -> i64 {
    let Some(v1::payload::Content::Json(json)) = &payload.content else {
        return 0;
    };
    let json: serde_json::Value = serde_json::from_str(json).expect("what was written");
    json["count"].as_i64().expect("a count")
}

async fn write(actor: &mut Actor, state_id: &str, version: i64, count: i64) {
    let op = actor.op();
    let request = v1::PutStateRequest {
        namespace: actor.namespace.clone(),
        request_id: op.clone(),
        state_id: state_id.to_owned(),
        payload: payload(&json!({ "op": op, "count": count })),
        expected_version: Some(version),
        ..Default::default()
    };
    match actor.client.ask(PATIENCE, request, door!(states.put_state)).await {
        Ok(put) => {
            let detail = format!("{state_id} to {count} in {}", put.version);
            actor.done("counted", &detail, |space| {
                standing(space, &put.cursor, put.position, |space| {
                    space.states.made(&op, state_id, put.version)
                })
            });
        }
        Err(failure) => actor.failed("count", &failure),
    }
}
