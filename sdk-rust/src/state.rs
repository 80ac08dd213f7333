//! Shared documents: typed reads and writes, compare-and-swap, and watches that go on after a break.
//!
//! The server is authoritative: a write names the version that it replaces, and is refused with the current document if that
//! has changed. [`States::update`] does the whole dance.

use std::time::Duration;

use drumline_proto::v1 as pb;
use futures::Stream;
use futures::stream::BoxStream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backoff::Backoff;
use crate::client::{Client, request_id};
use crate::error::{Error, Reason, Result};
use crate::payload;
use crate::stream::{Opened, Source, paged, resumed};

pub use crate::state_write::{Delete, Put, Written};

/// How often an update is tried against writers that are faster.
const UPDATE_TRIES: u32 = 100;

/// `StateService`.
#[derive(Clone, Debug)]
pub struct States {
    client: Client,
}

/// A document, read as a type.
#[derive(Clone, Debug)]
pub struct Document<T> {
    /// Its version.
    pub version: i64,
    /// Its content.
    pub value: T,
    /// All that the server says of it; the payload, too, is still there.
    pub state: pb::State,
}

/// What to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// One document. It need not exist yet.
    Document(String),
    /// Every document whose id begins with this.
    Prefix(String),
}

impl States {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Reads a document; `None` if there is none.
    pub async fn get<T: DeserializeOwned>(&self, state_id: &str) -> Result<Option<Document<T>>> {
        match self.get_version(state_id, 0).await {
            Ok(document) => Ok(Some(document)),
            Err(error) if error.reason() == Reason::StateNotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads one of the kept versions of a document; 0 is the current one.
    pub async fn get_version<T: DeserializeOwned>(&self, state_id: &str, version: i64) -> Result<Document<T>> {
        document(self.get_state(state_id, version).await?)
    }

    /// Reads one of the kept versions of a document as the server has it, whatever its content; 0 is the current one.
    pub async fn get_state(&self, state_id: &str, version: i64) -> Result<pb::State> {
        let namespace = self.client.namespace();
        let request = pb::GetStateRequest {
            namespace,
            state_id: state_id.into(),
            version,
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.state().get_state(request).await };
        Ok(self.client.call(request, send).await?.state.unwrap_or_default())
    }

    /// Writes a document whole. Await it, or say more first.
    pub fn put<T: Serialize + ?Sized>(&self, state_id: &str, value: &T) -> Put {
        self.put_with(state_id, payload::json(value))
    }

    /// Writes a document whole from a payload as it is.
    pub fn put_payload(&self, state_id: &str, payload: pb::Payload) -> Put {
        self.put_with(state_id, Ok(payload))
    }

    fn put_with(&self, state_id: &str, payload: Result<pb::Payload>) -> Put {
        let request = pb::PutStateRequest {
            namespace: self.client.namespace(),
            session_id: self.client.session_id(),
            request_id: request_id(),
            state_id: state_id.into(),
            ..Default::default()
        };
        Put::new(self.client.clone(), payload, request)
    }

    /// Deletes a document. Await it, or say more first.
    pub fn delete(&self, state_id: &str) -> Delete {
        let request = pb::DeleteStateRequest {
            namespace: self.client.namespace(),
            session_id: self.client.session_id(),
            request_id: request_id(),
            state_id: state_id.into(),
            ..Default::default()
        };
        Delete::new(self.client.clone(), request)
    }

    /// Makes the next version of a document from the current one, again and again until no other writer came between.
    ///
    /// `change` gets `None` where there is no document, and may be called more than once.
    pub async fn update<T, F>(&self, state_id: &str, change: F) -> Result<Document<T>>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(Option<T>) -> T,
    {
        self.update_guarded(state_id, &[], change).await
    }

    /// The same, refused if any of these locks is not held.
    pub async fn update_guarded<T, F>(&self, state_id: &str, guards: &[pb::Guard], mut change: F) -> Result<Document<T>>
    where
        T: Serialize + DeserializeOwned,
        F: FnMut(Option<T>) -> T,
    {
        let found = self.get(state_id).await?;
        let mut current: Option<Document<T>> = found;
        let mut backoff = Backoff::new(Duration::from_millis(2), Duration::from_millis(200));
        loop {
            let version = current.as_ref().map_or(0, |document| document.version);
            let value = change(current.map(|document| document.value));
            let payload = payload::json(&value)?;
            let put = self.put_payload(state_id, payload.clone());
            match put.expected_version(version).guards(guards).await {
                Ok(written) => {
                    let state = pb::State {
                        state_id: state_id.into(),
                        version: written.version,
                        payload: Some(payload),
                        position: written.position,
                        ..Default::default()
                    };
                    return Ok(Document {
                        version: written.version,
                        value,
                        state,
                    });
                }
                Err(error) if error.is_conflict() && backoff.tries() < UPDATE_TRIES => {
                    tokio::time::sleep(backoff.wait()).await;
                    current = self.current(state_id, &error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The document that was in the way: from the refusal, or read again.
    async fn current<T: DeserializeOwned>(&self, state_id: &str, conflict: &Error) -> Result<Option<Document<T>>> {
        match conflict.conflict() {
            Some(state) if state.deleted => Ok(None),
            Some(state) if state.payload.is_some() => document(state.clone()).map(Some),
            _ => self.get(state_id).await,
        }
    }

    /// The documents whose id begins with this, by id, page by page as they are asked for.
    pub fn list(&self, prefix: &str) -> BoxStream<'static, Result<pb::State>> {
        let (client, prefix) = (self.client.clone(), prefix.to_owned());
        Box::pin(paged(move |page_token| {
            let client = client.clone();
            let request = pb::ListStatesRequest {
                namespace: client.namespace(),
                prefix: prefix.clone(),
                page_token,
                ..Default::default()
            };
            async move {
                let response = client
                    .call(request, |stubs, request| async move {
                        stubs.state().list_states(request).await
                    })
                    .await?;
                Ok((response.states, response.next_page_token))
            }
        }))
    }

    /// The kept versions of a document, newest first.
    pub fn versions(&self, state_id: &str) -> BoxStream<'static, Result<pb::State>> {
        let (client, state_id) = (self.client.clone(), state_id.to_owned());
        Box::pin(paged(move |page_token| {
            let client = client.clone();
            let request = pb::ListStateVersionsRequest {
                namespace: client.namespace(),
                state_id: state_id.clone(),
                page_token,
                ..Default::default()
            };
            async move {
                let response = client
                    .call(request, |stubs, request| async move {
                        stubs.state().list_state_versions(request).await
                    })
                    .await?;
                Ok((response.versions, response.next_page_token))
            }
        }))
    }

    /// The document (or documents) as they are, then each change; goes on from its cursor after a break.
    ///
    /// A message without a state is a progress mark.
    pub fn watch(&self, watched: Watched) -> impl Stream<Item = Result<pb::WatchStateResponse>> + Send + Unpin + use<> {
        self.watch_from(watched, "")
    }

    /// The same, beginning after a cursor.
    pub fn watch_from(
        &self,
        watched: Watched,
        cursor: &str,
    ) -> impl Stream<Item = Result<pb::WatchStateResponse>> + Send + Unpin + use<> {
        let source = StateWatch {
            client: self.client.clone(),
            watched,
            cursor: cursor.to_owned(),
        };
        resumed(source, None)
    }
}

/// Reads the content of a document.
pub fn document<T: DeserializeOwned>(state: pb::State) -> Result<Document<T>> {
    let value = payload::decode_opt(state.payload.as_ref())?;
    Ok(Document {
        version: state.version,
        value,
        state,
    })
}

struct StateWatch {
    client: Client,
    watched: Watched,
    cursor: String,
}

impl Source for StateWatch {
    type Message = pb::WatchStateResponse;

    fn client(&self) -> &Client {
        &self.client
    }

    async fn open(&mut self) -> Result<Opened<Self::Message>> {
        use pb::watch_state_request::Target;
        let target = match self.watched.clone() {
            Watched::Document(id) => Target::StateId(id),
            Watched::Prefix(prefix) => Target::Prefix(prefix),
        };
        let request = pb::WatchStateRequest {
            namespace: self.client.namespace(),
            target: Some(target),
            cursor: self.cursor.clone(),
            progress_interval: None,
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.state().watch_state(request).await };
        self.client.open(request, send).await
    }

    fn seen(&mut self, message: &Self::Message) {
        if !message.cursor.is_empty() {
            self.cursor.clone_from(&message.cursor);
        }
    }
}
