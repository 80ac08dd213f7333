//! Server streams that go on after a break, and lists that go on after a page.
//!
//! A [`Source`] knows how to open its stream from where it has come; the loop here opens it again after whatever can be
//! mended by that (a broken connection, a server that is stopping, a consumer that was cut off for being slow): at another
//! address at once, else after a jittered wait. What cannot be mended, such as a cursor out of range, is handed to the reader and ends the stream.

use std::future::Future;
use std::time::{Duration, Instant};

use futures::Stream;
use futures::stream::BoxStream;
use tonic::Streaming;

use crate::addresses::Addresses;
use crate::client::Client;
use crate::error::{Error, Reason, Result};
use crate::retry::Tries;

/// A stream that is open at one address, which is left where the stream breaks.
pub(crate) struct Opened<M> {
    stream: Streaming<M>,
    addresses: Addresses,
    index: usize,
    since: Instant,
}

impl<M> Opened<M> {
    pub(crate) fn new(stream: Streaming<M>, addresses: Addresses, index: usize) -> Self {
        Self {
            stream,
            addresses,
            index,
            since: Instant::now(),
        }
    }

    /// The next message. That there is none is an error: who reads knows when nothing more is to come.
    async fn message(&mut self) -> Result<M> {
        let error = match self.stream.message().await {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => Error::transport("the server ended the stream"),
            Err(status) => status.into(),
        };
        self.addresses.note(self.index, self.since, Some(&error));
        Err(error.at(&self.addresses.get(self.index).place()))
    }
}

/// A stream that can be opened again from where it has come.
pub(crate) trait Source: Send + 'static {
    /// One message.
    type Message: Send + 'static;

    /// Whose stream it is.
    fn client(&self) -> &Client;

    /// Opens the stream from where it has come.
    fn open(&mut self) -> impl Future<Output = Result<Opened<Self::Message>>> + Send;

    /// Takes note of a message: where it has come.
    fn seen(&mut self, message: &Self::Message);

    /// Takes note of the error that ended the stream, which may carry a cursor.
    fn broken(&mut self, _error: &Error) {}

    /// Whether nothing more is to come, so that the stream's end is the end.
    fn is_over(&self) -> bool {
        false
    }
}

/// Whether opening the stream again from its cursor is the remedy.
pub(crate) fn is_mendable(error: &Error) -> bool {
    error.is_retryable() || matches!(error.reason(), Reason::SlowConsumer | Reason::Draining)
}

struct Resumed<S: Source> {
    source: S,
    open: Option<Opened<S::Message>>,
    tries: Tries,
    give_up_after: Option<Duration>,
    broken_since: Option<Instant>,
    ended: bool,
}

/// Reads a source for as long as it can be opened again; gives up after it could not for `give_up_after`.
pub(crate) fn resumed<S: Source>(source: S, give_up_after: Option<Duration>) -> BoxStream<'static, Result<S::Message>> {
    let state = Resumed {
        source,
        open: None,
        tries: Tries::new(Duration::from_millis(50), Duration::from_secs(5)),
        give_up_after,
        broken_since: None,
        ended: false,
    };
    Box::pin(futures::stream::unfold(state, |mut state| async move {
        let item = state.next().await?;
        Some((item, state))
    }))
}

impl<S: Source> Resumed<S> {
    async fn next(&mut self) -> Option<Result<S::Message>> {
        loop {
            if self.ended || self.source.is_over() {
                return None;
            }
            let error = match self.read().await {
                Ok(message) => {
                    self.tries.reset();
                    self.broken_since = None;
                    self.source.seen(&message);
                    return Some(Ok(message));
                }
                Err(error) => error,
            };
            self.open = None;
            self.source.broken(&error);
            let since = *self.broken_since.get_or_insert_with(Instant::now);
            let given_up = self.give_up_after.is_some_and(|after| since.elapsed() >= after);
            if given_up || !is_mendable(&error) {
                self.ended = true;
                return Some(Err(error));
            }
            let wait = self.tries.wait(self.source.client().addresses(), &error);
            tracing::debug!(%error, ?wait, "a stream is opened again");
            tokio::time::sleep(wait).await;
        }
    }

    /// The next message of the open stream, which is opened if it is not.
    async fn read(&mut self) -> Result<S::Message> {
        let stream = match &mut self.open {
            Some(stream) => stream,
            None => self.open.insert(self.source.open().await?),
        };
        stream.message().await
    }
}

/// Goes through the pages of a list: `page` gets the token of the next page and gives its items and the token after it.
pub(crate) fn paged<T, F, Fut>(page: F) -> impl Stream<Item = Result<T>> + Send
where
    T: Send,
    F: Fn(String) -> Fut + Send,
    Fut: Future<Output = Result<(Vec<T>, String)>> + Send,
{
    struct Pages<T, F> {
        page: F,
        items: std::vec::IntoIter<T>,
        token: Option<String>,
    }
    let first = Pages {
        page,
        items: Vec::new().into_iter(),
        token: Some(String::new()),
    };
    futures::stream::try_unfold(first, |mut pages| async move {
        loop {
            if let Some(item) = pages.items.next() {
                return Ok(Some((item, pages)));
            }
            let Some(token) = pages.token.take() else {
                return Ok(None);
            };
            let (items, next) = (pages.page)(token).await?;
            pages.items = items.into_iter();
            pages.token = Some(next).filter(|token| !token.is_empty());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;

    #[tokio::test]
    async fn pages_follow_one_another_even_an_empty_one() {
        let list = paged(|token| async move {
            Ok(match token.as_str() {
                "" => (vec![1, 2], "a".to_owned()),
                "a" => (vec![], "b".to_owned()),
                _ => (vec![3], String::new()),
            })
        });
        let items: Vec<i32> = list.try_collect().await.expect("a list");
        assert_eq!(items, [1, 2, 3]);
    }

    #[test]
    fn a_cursor_out_of_range_is_for_the_reader() {
        let error = |reason: Reason, code: tonic::Code| {
            Error::from_frame(drumline_proto::v1::Error {
                code: code as i32,
                reason: reason as i32,
                ..Default::default()
            })
        };
        assert!(!is_mendable(&error(Reason::CursorOutOfRange, tonic::Code::OutOfRange)));
        assert!(is_mendable(&error(
            Reason::SlowConsumer,
            tonic::Code::ResourceExhausted
        )));
        assert!(is_mendable(&error(Reason::Draining, tonic::Code::Unavailable)));
    }
}
