//! Writes of shared documents that have not been sent yet: what they may say before they are awaited.

use std::future::IntoFuture;

use drumline_proto::v1 as pb;
use futures::future::BoxFuture;

use crate::client::Client;
use crate::error::Result;

/// What a write made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The version that was made.
    pub version: i64,
    /// The position in the log that it was committed at.
    pub position: i64,
    /// The same as a cursor.
    pub cursor: String,
}

/// A write that has not been sent yet.
#[derive(Debug)]
#[must_use = "a write does nothing until it is awaited"]
pub struct Put {
    client: Client,
    payload: Result<pb::Payload>,
    request: pb::PutStateRequest,
}

impl Put {
    pub(crate) fn new(client: Client, payload: Result<pb::Payload>, request: pb::PutStateRequest) -> Self {
        Self {
            client,
            payload,
            request,
        }
    }

    /// Refuse it unless the document has this version; 0 is that it must not exist.
    pub fn expected_version(mut self, version: i64) -> Self {
        self.request.expected_version = Some(version);
        self
    }

    /// Refuse it unless this lock is held.
    pub fn guard(mut self, guard: pb::Guard) -> Self {
        self.request.guards.push(guard);
        self
    }

    /// Refuse it unless all of these locks are held.
    pub fn guards(mut self, guards: &[pb::Guard]) -> Self {
        self.request.guards.extend_from_slice(guards);
        self
    }

    /// The owner's version of the document's schema.
    pub fn schema_version(mut self, version: impl Into<String>) -> Self {
        self.request.schema_version = version.into();
        self
    }

    /// How many versions of the document to keep.
    pub fn version_retention(mut self, versions: i32) -> Self {
        self.request.version_retention = versions;
        self
    }

    /// Links the change's event to others.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.request.correlation_id = id.into();
        self
    }

    /// Sends it.
    pub async fn send(self) -> Result<Written> {
        let request = pb::PutStateRequest {
            payload: Some(self.payload?),
            ..self.request
        };
        let send = |stubs: crate::Stubs, request| async move { stubs.state().put_state(request).await };
        let answer = self.client.call(request, send).await?;
        let pb::PutStateResponse {
            version,
            position,
            cursor,
        } = answer;
        Ok(Written {
            version,
            position,
            cursor,
        })
    }
}

impl IntoFuture for Put {
    type Output = Result<Written>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// A deletion that has not been sent yet.
#[derive(Debug)]
#[must_use = "a deletion does nothing until it is awaited"]
pub struct Delete {
    client: Client,
    request: pb::DeleteStateRequest,
}

impl Delete {
    pub(crate) fn new(client: Client, request: pb::DeleteStateRequest) -> Self {
        Self { client, request }
    }

    /// Refuse it unless the document has this version.
    pub fn expected_version(mut self, version: i64) -> Self {
        self.request.expected_version = Some(version);
        self
    }

    /// Refuse it unless this lock is held.
    pub fn guard(mut self, guard: pb::Guard) -> Self {
        self.request.guards.push(guard);
        self
    }

    /// Links the change's event to others.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.request.correlation_id = id.into();
        self
    }

    /// Sends it.
    pub async fn send(self) -> Result<Written> {
        let send = |stubs: crate::Stubs, request| async move { stubs.state().delete_state(request).await };
        let answer = self.client.call(self.request, send).await?;
        let pb::DeleteStateResponse {
            version,
            position,
            cursor,
        } = answer;
        Ok(Written {
            version,
            position,
            cursor,
        })
    }
}

impl IntoFuture for Delete {
    type Output = Result<Written>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
