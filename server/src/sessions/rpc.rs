//! The door of sessions: the one stream that a connected agent keeps open.

mod connect;
mod down;
mod frames;
mod hello;
mod push;

use std::pin::Pin;
use std::sync::Arc;

use drumline_proto::v1;
use drumline_proto::v1::session_service_server::SessionService;
use futures::{Stream, StreamExt};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::app::App;
use crate::edge::Context;
use crate::machine;

/// The service.
pub struct Sessions {
    app: Arc<App>,
}

impl Sessions {
    /// The service of a server.
    pub fn new(app: Arc<App>) -> Sessions {
        Sessions { app }
    }
}

#[tonic::async_trait]
impl SessionService for Sessions {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<v1::ConnectResponse, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<v1::ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let call = Context::new(&request, "")?;
        let (down, receiver) = down::Down::new();
        let app = Arc::clone(&self.app);
        machine::spawn(connect::run(app, call, request.into_inner(), down));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver).map(|sent| *sent))))
    }
}
