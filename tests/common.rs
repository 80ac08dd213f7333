//! What every call has in common: payloads, ids, namespaces, the wire, repeated and abandoned requests.

mod abandoned;
mod ids;
mod payloads;
mod repeats;
mod services;
mod wire;

use drumline_proto::v1;
use tonic::Status;

use crate::support::{Stage, json};

/// A request to write a document.
pub fn put(stage: &Stage, id: &str, payload: Option<v1::Payload>) -> v1::PutStateRequest {
    v1::PutStateRequest {
        namespace: stage.ns(),
        state_id: id.into(),
        payload,
        ..Default::default()
    }
}

/// Reads a document.
pub async fn get(stage: &Stage, id: &str) -> Result<v1::State, Status> {
    let request = v1::GetStateRequest {
        namespace: stage.ns(),
        state_id: id.into(),
        version: 0,
    };
    let answer = stage.state().get_state(request).await?.into_inner();
    Ok(answer.state.expect("a state"))
}

/// Every document's id.
pub async fn ids(stage: &Stage, prefix: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListStatesRequest {
            namespace: stage.ns(),
            prefix: prefix.into(),
            page_token,
            without_payload: true,
            ..Default::default()
        };
        let page = stage.state().list_states(request).await.expect("a page").into_inner();
        ids.extend(page.states.into_iter().map(|state| state.state_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return ids;
        }
    }
}

/// Fails unless the server answers and writes as if nothing had happened.
pub async fn assert_well(stage: &Stage) {
    let fresh = Stage::new(&stage.address).await;
    crate::support::wait::soon("an answer", async {
        let made = fresh.state().put_state(put(&fresh, "well", json("1"))).await;
        assert_eq!(made.expect("the server writes").into_inner().version, 1);
        assert_eq!(get(&fresh, "well").await.expect("the server reads").version, 1);
    })
    .await;
}
