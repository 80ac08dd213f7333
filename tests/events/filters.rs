//! Which events a subscriber wants: the same for what is read from the store, for what comes live, and for listings.

use drumline_proto::v1;
use drumline_proto::v1::subscribe_request::Start;

use super::{Reader, event, list, list_all, positions, publish, types};
use crate::support::on_every_composition;

/// The events that filters choose from; their numbers are their places here.
fn events() -> Vec<v1::NewEvent> {
    let with = |event_type: &str, target: &str, correlation: &str, subject: &str, priority| v1::NewEvent {
        target_agent: target.into(),
        correlation_id: correlation.into(),
        subject: subject.into(),
        priority,
        ..event(event_type)
    };
    vec![
        with("review", "", "", "", 0),
        with("review.finding", "a", "c1", "file/1", 5),
        with("review.finding.fixed", "b", "c1", "file/2", -5),
        with("review.note", "", "c2", "file", 1),
        with("build.finding", "a", "c2", "files", 0),
        with("build.finding.fixed.twice", "", "", "FILE/1", 9),
    ]
}

/// Filters, each with the numbers of the events that it lets through.
fn cases() -> Vec<(v1::EventFilter, Vec<usize>)> {
    let mut cases = Vec::new();
    let patterns: [(&[&str], &[usize]); 14] = [
        (&[], &[0, 1, 2, 3, 4, 5]),
        (&["review.finding"], &[1]),
        (&["review"], &[0]),
        (&["*"], &[0]),
        (&["**"], &[0, 1, 2, 3, 4, 5]),
        (&["review.*"], &[1, 3]),
        (&["review.**"], &[0, 1, 2, 3]),
        (&["*.finding"], &[1, 4]),
        (&["**.fixed"], &[2]),
        (&["**.fixed.**"], &[2, 5]),
        (&["*.finding.**"], &[1, 2, 4, 5]),
        (&["review.note", "build.*", "review.note"], &[3, 4]),
        (&["revie"], &[]),
        (&["review.fin*"], &[]),
    ];
    for (patterns, wanted) in patterns {
        cases.push((types(patterns), wanted.to_vec()));
    }
    let mut with = |change: fn(&mut v1::EventFilter), wanted: &[usize]| {
        let mut filter = v1::EventFilter::default();
        change(&mut filter);
        cases.push((filter, wanted.to_vec()));
    };
    with(|filter| filter.target_agent = "a".into(), &[1, 4]);
    with(|filter| filter.target_agent = "nobody".into(), &[]);
    with(|filter| filter.source_agent = "nobody".into(), &[]);
    with(|filter| filter.correlation_id = "c1".into(), &[1, 2]);
    with(|filter| filter.subject_prefix = "file".into(), &[1, 2, 3, 4]);
    with(|filter| filter.subject_prefix = "file/".into(), &[1, 2]);
    with(|filter| filter.minimum_priority = Some(1), &[1, 3, 5]);
    with(|filter| filter.minimum_priority = Some(0), &[0, 1, 3, 4, 5]);
    with(|filter| filter.minimum_priority = Some(i32::MIN), &[0, 1, 2, 3, 4, 5]);
    with(
        |filter| {
            filter.event_types = vec!["**.finding".into(), "review.**".into()];
            filter.correlation_id = "c1".into();
            filter.minimum_priority = Some(0);
        },
        &[1],
    );
    cases
}

#[tokio::test]
async fn a_filter_lets_the_same_events_through_from_the_store_live_and_in_a_list() {
    on_every_composition(|stage| async move {
        let mut live = Vec::new();
        for (filter, _) in cases() {
            live.push(Reader::open(&stage, Start::Now(true), filter).await);
        }
        publish(&stage, events()).await;
        // What every reader is waiting for: it can be told from the others by its position.
        let end = 6;
        for ((filter, wanted), live) in cases().into_iter().zip(&mut live) {
            let wanted: Vec<i64> = wanted.into_iter().map(|number| number as i64 + 1).collect();
            let mut stored = Reader::open(&stage, Start::Beginning(true), filter.clone()).await;
            let (caught, mark) = stored.catch_up().await;
            assert_eq!(positions(&caught), wanted, "from the store: {filter:?}");
            assert_eq!(mark.position, end);
            let seen = live.take(wanted.len()).await;
            assert_eq!(positions(&seen), wanted, "live: {filter:?}");
            let request = v1::ListEventsRequest {
                filter: Some(filter.clone()),
                ..list(&stage)
            };
            let (listed, _) = list_all(&stage, request).await;
            assert_eq!(positions(&listed), wanted, "in a list: {filter:?}");
        }
        // Nothing but what was wanted came live: the next that comes is one that everybody is sent.
        let everybody = v1::NewEvent {
            target_agent: "a".into(),
            correlation_id: "c1".into(),
            subject: "file/x".into(),
            priority: 9,
            ..event("review.finding")
        };
        publish(&stage, vec![everybody]).await;
        for ((filter, wanted), live) in cases().into_iter().zip(&mut live) {
            if wanted.contains(&1) {
                assert_eq!(live.event().await.position, end + 1, "{filter:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_targeted_event_reaches_its_subscriber_and_no_other() {
    on_every_composition(|stage| async move {
        let target = |agent: &str| v1::EventFilter {
            target_agent: agent.into(),
            ..Default::default()
        };
        let mut readers = Vec::new();
        for n in 0..20 {
            readers.push(Reader::open(&stage, Start::Now(true), target(&format!("agent-{n}"))).await);
        }
        for round in 0..3 {
            for n in (0..20).rev() {
                let mut message = super::about("message.sent", format!("{n}/{round}"));
                message.target_agent = format!("agent-{n}");
                publish(&stage, vec![message, event("message.for_all")]).await;
            }
        }
        for (n, reader) in readers.iter_mut().enumerate() {
            let subjects: Vec<String> = reader.take(3).await.into_iter().map(|event| event.subject).collect();
            assert_eq!(subjects, [format!("{n}/0"), format!("{n}/1"), format!("{n}/2")]);
            // A mark at the end of the log: nothing else was on its way.
            assert_eq!(reader.nothing_up_to(120).await.position, 120);
        }
    })
    .await;
}

#[tokio::test]
async fn a_filter_that_makes_no_sense_is_refused() {
    on_every_composition(|stage| async move {
        let long = "x".repeat(256);
        let bad = [
            types(&[""]),
            types(&[&long]),
            types(&["a\u{7}"]),
            types(&["a"; 101]),
            v1::EventFilter {
                target_agent: long.clone(),
                ..Default::default()
            },
        ];
        for filter in bad {
            let refused = Reader::try_open(&stage, None, Some(filter.clone())).await;
            assert_eq!(
                crate::support::reason(refused.map(|_| ())),
                "INVALID_REQUEST",
                "{filter:?}"
            );
        }
        // Odd, but no nonsense: these match nothing, or everything, in reasonable time.
        let stars = vec!["**"; 64].join(".");
        for pattern in [stars.as_str(), "..", "*.*.*.*", "**.**"] {
            Reader::open(&stage, Start::Now(true), types(&[pattern]))
                .await
                .catch_up()
                .await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_events_source_is_the_agent_whose_session_published_it() {
    on_every_composition(|stage| async move {
        let mut sessions = Vec::new();
        for agent in ["a", "b"] {
            let request = v1::RegisterAgentRequest {
                namespace: stage.ns(),
                agent_id: agent.into(),
                ..Default::default()
            };
            let registered = stage.registry().register_agent(request).await.unwrap().into_inner();
            sessions.push(registered.session_id);
        }
        let of_a = v1::EventFilter {
            source_agent: "a".into(),
            ..types(&["note.made"])
        };
        let mut live = Reader::open(&stage, Start::Now(true), of_a.clone()).await;
        for (subject, session_id) in [
            ("1", &sessions[0]),
            ("2", &sessions[1]),
            ("3", &String::new()),
            ("4", &sessions[0]),
        ] {
            let request = v1::PublishEventsRequest {
                namespace: stage.ns(),
                session_id: session_id.clone(),
                events: vec![super::about("note.made", subject)],
                ..Default::default()
            };
            stage.events().publish_events(request).await.unwrap();
        }
        let seen = live.take(2).await;
        assert!(seen.iter().all(|event| event.source_agent == "a"));
        let subjects: Vec<&str> = seen.iter().map(|event| event.subject.as_str()).collect();
        assert_eq!(subjects, ["1", "4"]);
        let request = v1::ListEventsRequest {
            filter: Some(of_a),
            ..list(&stage)
        };
        assert_eq!(list_all(&stage, request).await.0, seen);
    })
    .await;
}
