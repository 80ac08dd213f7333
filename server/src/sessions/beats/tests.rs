use super::*;
use crate::store::Head;
use crate::time::Time;
use proptest::prelude::*;

fn session(number: usize, life: Life, generation: i64) -> Session {
    Session {
        session_id: format!("s-{number}"),
        agent_id: "agent".to_owned(),
        incarnation: 1,
        life,
        ttl: Duration::from_secs(3 + number as u64),
        generation,
        connected: false,
        polling: 0,
        poll_id: None,
        capacity: 1,
        in_flight: 0,
        last_assigned_at: Time(0),
        started_at: Time(0),
        ended_at: None,
        due_at: None,
    }
}

fn commit(session: Session) -> Commit {
    Commit {
        namespace: "default".into(),
        head: Head::new(Time(0)),
        events: Vec::new(),
        agents: HashMap::default(),
        sessions: [(session.session_id.clone(), Some(Arc::new(session)))]
            .into_iter()
            .collect(),
        locks: HashMap::default(),
        documents: HashMap::default(),
        tasks: HashMap::default(),
        payloads: HashMap::default(),
        workflows: HashMap::default(),
        next_due: None,
        own: true,
    }
}

#[test]
fn a_heartbeat_of_the_condemned_does_not_count_until_they_are_pardoned() {
    let beats = Beats::new();
    let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
    beats.observe(&commit(session(0, Life::Live, 0)), long_ago);
    assert!(!beats.condemn("default", "s-0", Instant::now()), "a gap has just ended");
    assert!(beats.condemn("default", "s-0", long_ago));
    assert_eq!(beats.beat("default", "s-0"), None);
    beats.pardon("default", "s-0");
    assert_eq!(beats.beat("default", "s-0"), Some(Duration::from_secs(3)));
    assert!(!beats.condemn("default", "s-0", long_ago));
    assert_eq!(beats.beat("default", "another"), None);
    assert!(!beats.condemn("default", "another", long_ago));
}

#[tokio::test]
async fn followers_hear_of_newer_streams_and_of_the_end() {
    let beats = Beats::new();
    let now = Instant::now();
    beats.observe(&commit(session(0, Life::Live, 1)), now);
    let mut sign = beats.follow("default", "s-0").unwrap();
    beats.observe(&commit(session(0, Life::Live, 2)), now);
    sign.changed().await.unwrap();
    assert_eq!(
        *sign.borrow_and_update(),
        Sign {
            generation: 2,
            ended: None
        }
    );
    beats.observe(&commit(session(0, Life::Superseded, 2)), now);
    sign.changed().await.unwrap();
    assert_eq!(sign.borrow_and_update().ended, Some(Life::Superseded));
    assert!(beats.follow("default", "s-0").is_none());
}

proptest! {
    /// Whoever was silent for its TTL, and a TTL after the last gap, is a suspect; nobody else is; and nobody is missed until the next look.
    #[test]
    fn the_silent_are_found_in_time(steps in prop::collection::vec((0usize..4, 0u8..4, 0u64..4_000), 1..80)) {
        let beats = Beats::new();
        let start = Instant::now();
        let (mut now, mut gap_end) = (start, start);
        let mut expected: HashMap<usize, Instant> = HashMap::default();
        let mut look_again: Option<Instant> = None;
        for (number, step, millis) in steps {
            now += Duration::from_millis(millis);
            match step {
                0 => {
                    beats.observe(&commit(session(number, Life::Live, 0)), now);
                    expected.entry(number).or_insert(now);
                }
                1 => {
                    beats.observe(&commit(session(number, Life::Expired, 0)), now);
                    expected.remove(&number);
                }
                2 => gap_end = now,
                _ => {}
            }
            if beats.lock().is_earlier || step == 0 {
                look_again = None;
            }
            let ends = |number: usize, last: Instant| last.max(gap_end) + Duration::from_secs(3 + number as u64);
            let silent: Vec<String> = {
                let mut silent: Vec<_> =
                    expected.iter().filter(|(number, last)| ends(**number, **last) <= now).map(|(number, _)| format!("s-{number}")).collect();
                silent.sort();
                silent
            };
            if let Some(again) = look_again && again > now {
                prop_assert!(silent.is_empty(), "somebody ended before the time to look again");
            }
            let (suspects, next) = beats.suspects(gap_end, now, 10);
            let mut found: Vec<String> = suspects.iter().map(|suspect| suspect.session_id.clone()).collect();
            found.sort();
            prop_assert_eq!(&found, &silent);
            look_again = next;
            for suspect in &suspects {
                beats.forget("default", &suspect.session_id, Life::Expired);
                expected.retain(|number, _| format!("s-{number}") != suspect.session_id);
            }
        }
    }
}
