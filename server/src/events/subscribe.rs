//! Subscriptions: a reader that may begin anywhere in the log catches up from the store and goes over to the feed, at a position that
//! both agree on. It sees every matching event once, in order, or ends with an error that says from where to go on.

use std::sync::Arc;
use std::time::Duration;

use drumline_proto::v1::subscribe_request::Start;
use drumline_proto::v1::subscribe_response::Content;
use drumline_proto::v1::{SubscribeRequest, SubscribeResponse, SubscriptionProgress};
use futures::Stream;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::Event;
use super::list::{position_before, read};
use super::rpc::{filter, to_proto};
use crate::app::App;
use crate::edge::check::Check;
use crate::edge::stream::{self, End, Outlet};
use crate::edge::{Context, payload};
use crate::error::{Reason, Refusal};
use crate::tail::{Cursor, Feed, Filter};
use crate::time::Time;

/// How many events are read from the store at a time.
const PAGE: usize = 500;

struct Reader {
    app: Arc<App>,
    namespace: Arc<str>,
    feed: Arc<Feed>,
    filter: Filter,
    outlet: Outlet<SubscribeResponse>,
    interval: Duration,
    progress_at: Instant,
    /// Everything up to here was looked at.
    position: i64,
}

/// The stream of a subscriber.
///
/// # Errors
/// INVALID_REQUEST, CURSOR_OUT_OF_RANGE.
pub async fn subscribe(
    app: Arc<App>,
    context: Context,
    request: SubscribeRequest,
) -> Result<impl Stream<Item = Result<SubscribeResponse, Status>>, Refusal> {
    let mut check = Check::default();
    let filter = filter(&mut check, request.filter);
    let interval = check.duration(
        "progress_interval",
        request.progress_interval,
        Duration::from_secs(15),
        Duration::from_secs(1)..=Duration::from_secs(3_600),
    );
    if matches!(request.start, Some(Start::Position(position)) if position < 1) {
        check.violation("position", "must be at least 1");
    }
    check.finish()?;
    let feed = app.tail.feed(&context.namespace).await?;
    let position = match request.start {
        None | Some(Start::Now(_)) => feed.position(),
        Some(Start::Beginning(_)) => feed.beginning(),
        Some(Start::Cursor(cursor)) => feed.check(Cursor::decode(&cursor, "cursor")?)?,
        Some(Start::Position(position)) => {
            // The next position to be is a good place to begin; one beyond that is not in the log.
            feed.check(Cursor {
                epoch: feed.epoch(),
                position: position - 1,
            })?
        }
        Some(Start::Time(time)) => {
            let time = payload::time(time);
            position_before(&app.store, &context.namespace, time, feed.beginning(), feed.position()).await?
        }
    };
    let progress_at = Instant::now() + interval;
    let (leaving, namespace) = (context.leaving(&app), context.namespace);
    Ok(stream::spawn(leaving, move |outlet| {
        Reader {
            app,
            namespace,
            feed,
            filter,
            outlet,
            interval,
            progress_at,
            position,
        }
        .run()
    }))
}

impl Reader {
    async fn run(mut self) -> Result<(), End> {
        let mut live = self.feed.subscribe(self.filter.clone());
        self.catch_up(live.after).await?;
        // If more came meanwhile than the feed holds for one reader, that is read from the store too.
        while live.is_cut_off() {
            if let Some(refusal) = self.feed.retired() {
                return Err(refusal.into());
            }
            live = self.feed.subscribe(self.filter.clone());
            self.catch_up(live.after).await?;
        }
        self.send_progress(true).await?;
        loop {
            crate::select! {
                delivery = live.next() => {
                    let Some(delivery) = delivery else {
                        if let Some(refusal) = self.feed.retired() {
                            return Err(refusal.into());
                        }
                        return Err(self.too_slow().into());
                    };
                    self.send_event(&delivery.event, Time::of_this_machine()).await?;
                }
                () = sleep_until(self.progress_at) => {
                    let position = self.feed.position();
                    if live.is_up_to_date() {
                        self.position = self.position.max(position);
                    }
                    self.send_progress(false).await?;
                }
                () = self.outlet.leaving.cancelled() => {
                    while let Some(delivery) = live.try_next() {
                        self.send_event(&delivery.event, Time::of_this_machine()).await?;
                    }
                    return Err(stream::draining(&self.feed.cursor(self.position)).into());
                }
            }
        }
    }

    /// Sends what the store has, up to a position.
    async fn catch_up(&mut self, up_to: i64) -> Result<(), End> {
        while self.position < up_to {
            if self.outlet.leaving.is_cancelled() {
                return Err(stream::draining(&self.feed.cursor(self.position)).into());
            }
            let events = read(&self.app.store, &self.namespace, self.position, PAGE, false).await?;
            let now = Time::of_this_machine();
            for event in &events {
                if event.position > up_to {
                    return Ok(());
                }
                if self.filter.matches(event) {
                    self.send_event(event, now).await?;
                }
                self.position = event.position;
            }
            if events.is_empty() {
                self.position = up_to;
            }
            if Instant::now() >= self.progress_at {
                self.send_progress(false).await?;
            }
        }
        Ok(())
    }

    async fn send_event(&mut self, event: &Event, now: Time) -> Result<(), End> {
        self.position = event.position;
        if event.is_expired(now) {
            return Ok(());
        }
        let content = Some(Content::Event(to_proto(event, self.feed.epoch())));
        Ok(self.outlet.send(SubscribeResponse { content }).await?)
    }

    async fn send_progress(&mut self, caught_up: bool) -> Result<(), End> {
        self.progress_at = Instant::now() + self.interval;
        let cursor = self.feed.cursor(self.position);
        let progress = SubscriptionProgress {
            position: self.position,
            cursor,
            caught_up,
        };
        Ok(self
            .outlet
            .send(SubscribeResponse {
                content: Some(Content::Progress(progress)),
            })
            .await?)
    }

    fn too_slow(&self) -> Refusal {
        let cursor = self.feed.cursor(self.position);
        Refusal::new(
            Reason::SlowConsumer,
            "the subscriber does not keep up; subscribe again from the cursor",
        )
        .with("cursor", cursor)
        .retry_after(Duration::from_millis(100))
    }
}
