//! Statements that are sent one after another without waiting for the answers between them: one round trip for all.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures::future::{BoxFuture, MaybeDone, maybe_done};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

use super::value::Parameter;

/// A statement with its parameters.
pub(super) struct Request<'a> {
    pub(super) statement: Statement,
    pub(super) parameters: Vec<Parameter<'a>>,
}

type Answer = Result<Vec<Row>, Error>;

/// Statements under way on a connection.
pub(super) struct Pipeline<'a> {
    client: &'a Client,
    answers: Vec<Pin<Box<MaybeDone<BoxFuture<'a, Answer>>>>>,
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(client: &'a Client) -> Pipeline<'a> {
        Pipeline {
            client,
            answers: Vec::new(),
        }
    }

    /// Sends a statement. Tells whether that failed at once: then nothing was sent, but what is sent after it still would be.
    pub(super) fn send(&mut self, request: &'a Request<'a>) -> bool {
        let client = self.client;
        let answer: BoxFuture<'a, Answer> = Box::pin(async move {
            let parameters: Vec<_> = request.parameters.iter().map(|it| it as &(dyn ToSql + Sync)).collect();
            client.query(&request.statement, &parameters).await
        });
        let mut answer = Box::pin(maybe_done(answer));
        // The driver puts a statement into its queue when its future is polled first. Whoever waits for it polls it again.
        let _ = answer.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let failed = matches!(answer.as_mut().output_mut(), Some(Err(_)));
        self.answers.push(answer);
        !failed
    }

    /// Waits for all answers, in the order of the statements.
    pub(super) async fn finish(mut self) -> Vec<Answer> {
        std::future::poll_fn(|context| {
            let mut ready = true;
            for answer in &mut self.answers {
                ready &= answer.as_mut().poll(context).is_ready();
            }
            if ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let answers = self.answers.iter_mut();
        answers.filter_map(|answer| answer.as_mut().take_output()).collect()
    }
}
