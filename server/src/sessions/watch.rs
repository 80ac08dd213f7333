//! The watch over the living: finds sessions that fell silent, and asks the lane to end them.
//!
//! Death is decided inside the lane, where the signs of life are looked at once more. One task sleeps until the earliest possible death; the
//! living cost nothing in between. While the server is stopping, nobody dies.
//!
//! Where servers share a store, each watches over all: who is silent here may have been heard elsewhere, which is read in the store before
//! the lane is asked.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::beats::{Beats, Suspect, patience};
use super::gap::{Asker, Gap};
use super::{BeatRecord, Life, Session, rules};
use crate::app::App;
use crate::error::Refusal;
use crate::lane::{Call, Decision, Lanes, Urgency, World, refusal_of};
use crate::machine::{self, HashMap, Instant};
use crate::store::row::{Row, Value};
use crate::store::{Selection, Store, StoreError};

/// How many deaths are decided at a time.
const AT_ONCE: usize = 256;
/// How long to wait after a round that found somebody.
const BREATH: Duration = Duration::from_millis(20);
/// How long to wait before a failed step of the start is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How many sessions are read, or brought up to date, at a time.
const PAGE: usize = 500;

/// What the watch works with.
#[derive(Clone)]
pub struct Watchman {
    /// Where sessions are read at the start.
    pub store: Store,
    /// Where deaths are decided.
    pub lanes: Lanes,
    /// Signs of life.
    pub beats: Beats,
    /// When they could not be seen.
    pub gap: Gap,
    /// Who looks for them in the store.
    pub asker: Asker,
}

impl Watchman {
    /// Watches over all from now on, first of all over those who were alive before anybody was served, until the server stops.
    pub fn start(self, alive: Vec<(Arc<str>, Vec<Session>)>, draining: CancellationToken) {
        self.gap.start(draining.clone());
        let watchman = self.clone();
        let token = draining.clone();
        machine::spawn(async move { token.run_until_cancelled(watchman.begin(alive)).await });
        machine::spawn(async move { draining.run_until_cancelled(self.watch()).await });
    }

    async fn watch(&self) {
        loop {
            let (suspects, next) = self.beats.suspects(self.gap.end(), Instant::now(), AT_ONCE);
            if !suspects.is_empty() {
                let watchman = self.clone();
                machine::spawn(async move { watchman.look_at_all(suspects).await });
                tokio::time::sleep(BREATH).await;
                continue;
            }
            match next {
                Some(next) => {
                    let _ = tokio::time::timeout_at(next.max(Instant::now() + BREATH), self.beats.earlier()).await;
                }
                None => self.beats.earlier().await,
            }
        }
    }

    async fn look_at_all(&self, suspects: Vec<Suspect>) {
        let suspects = if self.store.is_shared() {
            self.unheard(suspects).await
        } else {
            suspects
        };
        futures::future::join_all(suspects.into_iter().map(|suspect| self.look_at(suspect))).await;
    }

    /// Those of whom the store has no newer sign of life either.
    async fn unheard(&self, suspects: Vec<Suspect>) -> Vec<Suspect> {
        let mut by_namespace: HashMap<Arc<str>, Vec<Suspect>> = HashMap::default();
        for suspect in suspects {
            by_namespace
                .entry(Arc::clone(&suspect.namespace))
                .or_default()
                .push(suspect);
        }
        let looks = by_namespace.into_values().map(|suspects| self.unheard_of(suspects));
        futures::future::join_all(looks).await.into_iter().flatten().collect()
    }

    async fn unheard_of(&self, suspects: Vec<Suspect>) -> Vec<Suspect> {
        let keys = suspects
            .iter()
            .map(|suspect| suspect.session_id.clone())
            .collect::<Vec<_>>();
        let read = self.store.get_all_at::<BeatRecord>(&suspects[0].namespace, &keys);
        let Ok((now, beats)) = self.asker.heard(read).await else {
            // The store is not there: everybody lives on, and is looked at again.
            tokio::time::sleep(RETRY).await;
            for Suspect { namespace, session_id } in &suspects {
                self.beats.pardon(namespace, session_id);
            }
            return Vec::new();
        };
        let beats: HashMap<String, BeatRecord> =
            beats.into_iter().map(|beat| (beat.session_id.clone(), beat)).collect();
        let lives = |suspect: &Suspect| {
            // Whoever is not in it has ended; the lane knows how.
            beats.get(&suspect.session_id).is_some_and(|beat| {
                let elsewhere = beat.home != self.beats.home();
                self.beats
                    .saw(suspect, now.since(beat.at), elsewhere, self.gap.end())
                    .is_some()
            })
        };
        suspects.into_iter().filter(|suspect| !lives(suspect)).collect()
    }

    /// Ends a session if it is still silent when the lane comes to it.
    async fn look_at(&self, suspect: Suspect) {
        let (beats, gap) = (self.beats.clone(), self.gap.clone());
        let key = suspect.clone();
        let wanted = suspect.session_id.clone();
        let shared = self.store.is_shared();
        let ended = self
            .lanes
            .run(
                Call::internal(&suspect.namespace, Urgency::High),
                move |world| {
                    world.sessions.want(&wanted);
                    if shared {
                        world.beats.want(&wanted);
                    }
                },
                move |world| {
                    let session = world.sessions.get(&key.session_id)?;
                    let life = session.as_ref().map_or(Life::Expired, |session| session.life);
                    let Some(session) = session.filter(|session| session.is_live()) else {
                        return Ok(life);
                    };
                    let silent = !shared || is_silent(world, &session, beats.home())?;
                    if silent && beats.condemn(&key.namespace, &key.session_id, gap.end()) {
                        rules::end(world, &key.session_id, Life::Expired)?;
                        return Ok(Life::Expired);
                    }
                    Ok(Life::Live)
                },
            )
            .await;
        let Suspect { namespace, session_id } = &suspect;
        match ended.map(|committed| committed.answer) {
            Ok(Life::Live) => self.beats.pardon(namespace, session_id),
            Ok(life) => self.beats.forget(namespace, session_id, life),
            Err(_) => {
                // The store is not there: everybody lives on, and is looked at again.
                tokio::time::sleep(RETRY).await;
                self.beats.pardon(namespace, session_id);
            }
        }
    }

    /// After a start: every session that was alive gets a full TTL to be heard of, and none has a stream or a poll yet.
    async fn begin(&self, alive: Vec<(Arc<str>, Vec<Session>)>) {
        for (namespace, page) in alive {
            // Where servers share the store, a stream may be another's.
            let streams_ended = !self.store.is_shared();
            while let Err(refusal) = self.take_over(&namespace, page.clone(), streams_ended).await {
                tracing::warn!(%refusal, "the sessions cannot be let in yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Who is alive, in pages. To be read before anybody is served: what is read later may have a stream of this server.
    pub async fn alive(&self) -> Result<Vec<(Arc<str>, Vec<Session>)>, StoreError> {
        let mut alive = Vec::new();
        for namespace in self.store.namespaces().await? {
            let namespace: Arc<str> = namespace.into();
            let pages = self.read_namespace(&namespace).await?;
            alive.extend(pages.into_iter().map(|page| (Arc::clone(&namespace), page)));
        }
        Ok(alive)
    }

    async fn read_namespace(&self, namespace: &str) -> Result<Vec<Vec<Session>>, StoreError> {
        let mut pages: Vec<Vec<Session>> = Vec::new();
        while pages.last().is_none_or(|page| page.len() == PAGE) {
            let last = pages.last().and_then(|page| page.last());
            let after = last.and_then(|session| session.place(&Session::TABLE.indexes[Session::BY_LIFE]));
            pages.push(self.read_page(namespace, after.map(|(_, place)| place)).await?);
        }
        Ok(pages)
    }

    /// Reads again who is alive in a namespace whose history was lost.
    pub async fn begin_again(&self, namespace: &Arc<str>) {
        self.beats.forget_streams(namespace);
        while let Err(refusal) = self.let_all_in(namespace).await {
            tracing::warn!(%refusal, "the sessions cannot be read yet");
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn let_all_in(&self, namespace: &Arc<str>) -> Result<(), Refusal> {
        let pages = self.read_namespace(namespace).await;
        for page in pages.map_err(|error| refusal_of(&error))? {
            // Calls are being served: whoever has a stream may have it here.
            self.take_over(namespace, page, false).await?;
        }
        Ok(())
    }

    async fn read_page(&self, namespace: &str, after: Option<Vec<Value>>) -> Result<Vec<Session>, StoreError> {
        let selection = Selection {
            index: Session::BY_LIFE,
            prefix: vec![Value::Text(Life::Live.name().to_owned())],
            after,
            limit: PAGE,
            backwards: false,
        };
        Ok(self.store.select::<Session>(namespace, selection).await?.1)
    }

    /// Lets sessions in, in the lane, so that what has become of them since they were read comes first.
    async fn take_over(
        &self,
        namespace: &Arc<str>,
        sessions: Vec<Session>,
        streams_ended: bool,
    ) -> Result<(), Refusal> {
        let beats = self.beats.clone();
        let wanted: Vec<(String, String)> = sessions
            .iter()
            .map(|session| (session.session_id.clone(), session.agent_id.clone()))
            .collect();
        let read: Vec<(String, i64)> = sessions
            .into_iter()
            .map(|session| (session.session_id, session.generation))
            .collect();
        if read.is_empty() {
            return Ok(());
        }
        let wants = move |world: &mut World| {
            for (session_id, agent_id) in &wanted {
                rules::want_agent(world, session_id, agent_id);
            }
        };
        let take = move |world: &mut World| {
            for (session_id, generation) in &read {
                if streams_ended {
                    rules::forget_calls(world, session_id, *generation)?;
                }
                if let Some(session) = world.sessions.get(session_id)?
                    && session.is_live()
                {
                    beats.let_in(&world.namespace, &session);
                }
            }
            Ok(())
        };
        self.lanes
            .run(Call::internal(namespace, Urgency::High), wants, take)
            .await
            .map(|_| ())
    }
}

/// Whether the store has no sign of life of a session either, which is held as it is until the batch ends.
fn is_silent(world: &mut World, session: &Session, home: &str) -> Decision<bool> {
    let now = world.now();
    let beat = world.beats.get(&session.session_id)?;
    Ok(beat.is_none_or(|beat| now.since(beat.at) >= patience(session.ttl, beat.home != home)))
}

/// Notes a sign of life of a session, and tells its TTL.
///
/// # Errors
/// SESSION_ENDED, SESSION_SUPERSEDED; what the lane refuses with where it must be asked.
pub async fn beat(app: &App, namespace: &Arc<str>, session_id: &str) -> Result<Duration, Refusal> {
    let is_noted = match &app.pulse {
        Some(pulse) => pulse.beat(namespace, session_id).await?,
        None => true,
    };
    if is_noted && let Some(ttl) = app.beats.beat(namespace, session_id) {
        return Ok(ttl);
    }
    let beats = app.beats.clone();
    let session_id = session_id.to_owned();
    let wanted = session_id.clone();
    let asked = app.lanes.run(
        Call::internal(namespace, Urgency::High),
        move |world| world.sessions.want(&wanted),
        move |world| {
            let session = rules::live(world, &session_id)?;
            beats.revive(world, &session);
            Ok(session.ttl)
        },
    );
    Ok(asked.await?.answer)
}
