//! The connection to Redis: what is said on it, what is heard, and that it is alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::Message;
use fred::types::config::{Config, ConnectionConfig, PerformanceConfig, TcpConfig};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::ear::Ears;
use super::hint::{MAX_MESSAGE, Seal, Sender, Word, weight};
use super::url::Place;
use super::{Heard, Hint};
use crate::lane::Commit;
use crate::machine;

/// How many hints wait to be said.
const WAITING: usize = 512;
/// About how many bytes of commits wait with them; beyond that they go without.
const WAITING_BYTES: usize = 16 << 20;
/// About how many bytes one hint may have.
const WHOLE_BYTES: usize = MAX_MESSAGE;
/// How many hints are said together, in one round trip.
const PIPELINE: usize = 64;
/// Something is said at every tick, and must have been heard by the next.
const TICK: Duration = Duration::from_secs(2);
/// For how long somebody is thought to be there after the last sign of it.
const AUDIENCE: Duration = Duration::from_secs(6);
/// How long a step of connecting, or a round trip, may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many messages wait for the hearer before it is told that it lags.
const MESSAGES: usize = 1024;
/// The first and the longest pause between two attempts; half of each is chance.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// A bus through Redis. Cheap to clone.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Waiting>,
}

/// A hint that waits to be said, and how heavy it is.
struct Waiting {
    hint: Hint,
    weight: usize,
}

struct Shared {
    place: Place,
    seal: Seal,
    channel: String,
    me: Sender,
    ears: Ears,
    connected: AtomicBool,
    waiting: AtomicUsize,
    begun: Instant,
    /// When somebody else was last known to be there, in milliseconds since `begun`; 0 if never.
    company: AtomicU64,
}

/// Why a connection is given up.
type Ended = String;

impl Redis {
    pub(super) fn start(place: Place, store_id: &str) -> Redis {
        let seal = Seal::new(store_id);
        let shared = Arc::new(Shared {
            place,
            channel: seal.channel(),
            seal,
            me: machine::random(),
            ears: Ears::default(),
            connected: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            begun: Instant::now(),
            company: AtomicU64::new(0),
        });
        let (queue, hints) = mpsc::channel(WAITING);
        machine::spawn(keep(Arc::clone(&shared), hints));
        Redis { shared, queue }
    }

    pub(super) fn publish(&self, commit: &Arc<Commit>) {
        if !self.is_connected() {
            return;
        }
        let weight = weight(commit);
        let waiting = self.shared.waiting.load(Ordering::Relaxed);
        let whole = weight <= WHOLE_BYTES && waiting + weight <= WAITING_BYTES && self.shared.has_company();
        let weight = if whole { weight } else { 0 };
        let hint = Hint::of(commit, whole);
        self.shared.waiting.fetch_add(weight, Ordering::Relaxed);
        if self.queue.try_send(Waiting { hint, weight }).is_err() {
            self.shared.waiting.fetch_sub(weight, Ordering::Relaxed);
        }
    }

    pub(super) fn listen(&self) -> mpsc::Receiver<Heard> {
        self.shared.ears.listen()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn take(&self, waiting: Waiting) -> Hint {
        self.waiting.fetch_sub(waiting.weight, Ordering::Relaxed);
        waiting.hint
    }

    fn note_company(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.company.store(now.max(1), Ordering::Relaxed);
    }

    fn has_company(&self) -> bool {
        let last = self.company.load(Ordering::Relaxed);
        last > 0 && self.begun.elapsed() < Duration::from_millis(last) + AUDIENCE
    }
}

/// Connects again and again, until the bus is dropped.
async fn keep(shared: Arc<Shared>, mut hints: mpsc::Receiver<Waiting>) {
    let mut pause = PAUSES.0;
    let mut was_said = false;
    loop {
        let ended = connect_and_talk(&shared, &mut hints).await;
        let was_connected = shared.connected.swap(false, Ordering::Relaxed);
        if was_connected {
            shared.ears.interrupt();
            (pause, was_said) = (PAUSES.0, false);
        }
        let Err(why) = ended else { return };
        if std::mem::replace(&mut was_said, true) {
            tracing::debug!(redis = %shared.place, "still no Redis: {why}");
        } else {
            tracing::warn!(
                redis = %shared.place,
                "no Redis, so replicas look into the database instead: {why}"
            );
        }
        if !rest(&shared, &mut hints, pause.mul_f64(machine::random_range(0.5..1.0))).await {
            return;
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Waits, and drops what is to be said meanwhile. Returns whether the bus is still there.
async fn rest(shared: &Shared, hints: &mut mpsc::Receiver<Waiting>, pause: Duration) -> bool {
    let drop_all = async {
        while let Some(waiting) = hints.recv().await {
            shared.take(waiting);
        }
    };
    timeout(pause, drop_all).await.is_err()
}

/// One connection, from its beginning to its end. Returns without an error when the bus was dropped.
async fn connect_and_talk(shared: &Arc<Shared>, hints: &mut mpsc::Receiver<Waiting>) -> Result<(), Ended> {
    let client = client(shared.place.config());
    let messages = client.message_rx();
    let mut connection = connect(&client).await?;
    within("subscribing", client.subscribe(shared.channel.as_str())).await?;
    let (own, heard) = watch::channel(0);
    let _hearer = AbortOnDropHandle::new(machine::spawn(hear(Arc::clone(shared), messages, own)));
    let mut speaker = Speaker {
        shared,
        client,
        said: 0,
        heard,
    };
    speaker.prove().await?;
    shared.connected.store(true, Ordering::Relaxed);
    // From here on nothing is missed; before, something may have been.
    shared.ears.interrupt();
    tracing::info!(redis = %shared.place, "connected to Redis");
    crate::select! {
        ended = &mut connection => Err(why(ended)),
        ended = speaker.talk(hints) => ended,
    }
}

fn client(config: Config) -> Client {
    let performance = PerformanceConfig {
        broadcast_channel_capacity: MESSAGES,
        ..PerformanceConfig::default()
    };
    let connection = ConnectionConfig {
        connection_timeout: PATIENCE,
        internal_command_timeout: PATIENCE,
        // One attempt each: what failed is late, and the connection is made anew.
        max_command_attempts: 1,
        max_command_buffer_len: 2 * PIPELINE,
        tcp: TcpConfig {
            nodelay: Some(true),
            ..TcpConfig::default()
        },
        ..ConnectionConfig::default()
    };
    // No policy of reconnecting: a client is good for one connection, and `keep` makes the next.
    Client::new(config, Some(performance), Some(connection), None)
}

/// A connection's task: it ends with the connection, and ends it when it is dropped.
type Connection = AbortOnDropHandle<Result<(), fred::error::Error>>;

async fn connect(client: &Client) -> Result<Connection, Ended> {
    let mut connected = std::pin::pin!(client.wait_for_connect());
    // It listens from when it is first asked: that has to be before there is something to hear.
    let _not_yet = futures::poll!(&mut connected);
    let mut connection = AbortOnDropHandle::new(client.connect());
    crate::select! {
        connected = connected => connected.map_err(|error| error.to_string())?,
        ended = &mut connection => return Err(why(ended)),
        () = sleep(4 * PATIENCE) => return Err("connecting takes too long".to_owned()),
    }
    Ok(connection)
}

fn why(ended: Result<Result<(), fred::error::Error>, tokio::task::JoinError>) -> Ended {
    match ended {
        Ok(Err(error)) => error.to_string(),
        _ => "the connection was closed".to_owned(),
    }
}

/// A step that must not take long.
async fn within<T>(what: &str, step: impl Future<Output = Result<T, fred::error::Error>>) -> Result<T, Ended> {
    match timeout(PATIENCE, step).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("{what} takes too long")),
    }
}

/// Says what is to be said on one connection.
struct Speaker<'a> {
    shared: &'a Shared,
    client: Client,
    /// The number of the last message.
    said: u64,
    /// The number of the last message that was heard back.
    heard: watch::Receiver<u64>,
}

impl Speaker<'_> {
    /// Returns once this process has heard itself.
    async fn prove(&mut self) -> Result<(), Ended> {
        self.say(&[]).await?;
        let heard = timeout(PATIENCE, self.heard.wait_for(|heard| *heard > 0)).await;
        if heard.is_ok_and(|heard| heard.is_ok()) {
            return Ok(());
        }
        let channel = &self.shared.channel;
        Err(format!(
            "what is published on {channel} is not heard there: is the user allowed to subscribe to it?"
        ))
    }

    /// Says what waits, as it comes; ends when own words are no longer heard. Returns without an error when the bus was dropped.
    async fn talk(&mut self, hints: &mut mpsc::Receiver<Waiting>) -> Result<(), Ended> {
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said_by_last_tick = self.said;
        let mut together = Vec::with_capacity(PIPELINE);
        loop {
            crate::select! {
                _ = ticks.tick() => {
                    if *self.heard.borrow() < said_by_last_tick {
                        return Err("own words are not heard any more".to_owned());
                    }
                    self.say(&[]).await?;
                    said_by_last_tick = self.said;
                }
                count = hints.recv_many(&mut together, PIPELINE) => {
                    if count == 0 {
                        return Ok(());
                    }
                    let hints: Vec<Hint> = together.drain(..).map(|waiting| self.shared.take(waiting)).collect();
                    self.say(&hints).await?;
                }
            }
        }
    }

    /// Says these hints in one round trip; that one is there, if there are none.
    async fn say(&mut self, hints: &[Hint]) -> Result<(), Ended> {
        let pipeline = self.client.pipeline();
        let words = hints.iter().map(Some);
        for hint in words.chain(hints.is_empty().then_some(None)) {
            self.said += 1;
            let message = self.shared.seal.close(&self.shared.me, self.said, hint);
            let queued = pipeline
                .publish::<(), _, _>(self.shared.channel.as_str(), Bytes::from(message))
                .await;
            queued.map_err(|error| error.to_string())?;
        }
        let ears: Vec<i64> = within("publishing", pipeline.all()).await?;
        // One of them is this process.
        if ears.last().is_some_and(|ears| *ears > 1) {
            self.shared.note_company();
        }
        Ok(())
    }
}

/// Hears what comes on one connection.
async fn hear(shared: Arc<Shared>, mut messages: broadcast::Receiver<Message>, own: watch::Sender<u64>) {
    loop {
        let message = match messages.recv().await {
            Ok(message) => message,
            Err(RecvError::Lagged(_)) => {
                shared.ears.interrupt();
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        match shared
            .seal
            .open(&shared.me, message.value.as_bytes().unwrap_or_default())
        {
            Ok(Word::Own(serial)) => {
                own.send_replace(serial);
            }
            Ok(Word::Beat) => shared.note_company(),
            Ok(Word::Hint(hint)) => {
                shared.note_company();
                shared.ears.hint(&hint);
            }
            Err(_malformed) => shared.ears.interrupt(),
        }
    }
}
