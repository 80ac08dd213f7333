//! Where a subscription begins, and what it is told when it cannot.

use drumline_proto::v1;
use drumline_proto::v1::subscribe_request::Start;

use super::{Reader, about, event, list, list_all, positions, publish, publish_many};
use crate::support::{Stage, metadata_of, on_every_composition, reason, reason_of};

async fn seen_from(stage: &Stage, start: Option<Start>) -> (Vec<i64>, v1::SubscriptionProgress) {
    let mut reader = Reader::try_open(stage, start, None).await.expect("a subscription");
    let (events, mark) = reader.catch_up().await;
    (positions(&events), mark)
}

#[tokio::test]
async fn a_subscription_begins_where_it_is_asked_to() {
    on_every_composition(|stage| async move {
        // In an empty log every start is the same.
        for start in [
            None,
            Some(Start::Beginning(true)),
            Some(Start::Now(true)),
            Some(Start::Position(1)),
        ] {
            let (seen, mark) = seen_from(&stage, start).await;
            assert_eq!((seen, mark.position), (vec![], 0));
        }
        let mut answers = Vec::new();
        for n in 1..=10 {
            answers.push(publish(&stage, vec![about("note.made", n.to_string())]).await);
        }
        let whole: Vec<i64> = (1..=10).collect();
        let expected: [(Option<Start>, &[i64]); 7] = [
            (None, &[]),
            (Some(Start::Now(true)), &[]),
            (Some(Start::Beginning(true)), &whole),
            (Some(Start::Position(1)), &whole),
            (Some(Start::Position(8)), &[8, 9, 10]),
            (Some(Start::Position(11)), &[]),
            (Some(Start::Cursor(answers[6].cursor.clone())), &[8, 9, 10]),
        ];
        for (start, expected) in expected {
            let (seen, mark) = seen_from(&stage, start.clone()).await;
            assert_eq!(seen, expected, "from {start:?}");
            assert_eq!(mark.position, 10, "from {start:?}");
            // The mark's cursor is as good as an event's.
            assert_eq!(
                seen_from(&stage, Some(Start::Cursor(mark.cursor))).await.0,
                Vec::<i64>::new()
            );
        }
        // The next event is live, whatever the start.
        let mut now = Reader::open(&stage, Start::Now(true), v1::EventFilter::default()).await;
        let mut eleventh = Reader::open(&stage, Start::Position(11), v1::EventFilter::default()).await;
        publish(&stage, vec![event("note.made")]).await;
        assert_eq!(now.event().await.position, 11);
        assert_eq!(eleventh.event().await.position, 11);
    })
    .await;
}

#[tokio::test]
async fn a_subscription_from_a_time_begins_with_the_first_event_at_or_after_it() {
    on_every_composition(|stage| async move {
        for n in 1..=30 {
            publish(&stage, vec![about("note.made", n.to_string())]).await;
        }
        let (events, _) = list_all(&stage, list(&stage)).await;
        let at = |event: &v1::Event| {
            let time = event.timestamp.expect("a time");
            i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
        };
        for chosen in [&events[0], &events[14], &events[29]] {
            let wanted = events.iter().filter(|event| at(event) >= at(chosen));
            let wanted: Vec<i64> = wanted.map(|event| event.position).collect();
            let start = Start::Time(chosen.timestamp.expect("a time"));
            assert_eq!(seen_from(&stage, Some(start)).await.0, wanted);
        }
        let long_ago = prost_types::Timestamp { seconds: 0, nanos: 0 };
        assert_eq!(seen_from(&stage, Some(Start::Time(long_ago))).await.0.len(), 30);
        let far_away = prost_types::Timestamp {
            seconds: 253_402_300_799,
            nanos: 0,
        };
        assert_eq!(seen_from(&stage, Some(Start::Time(far_away))).await.0.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_cursor_ahead_of_the_log_is_told_so_with_where_the_log_is() {
    on_every_composition(|stage| async move {
        let answer = publish_many(&stage, "note.made", 5).await;
        let (epoch, _) = answer.cursor.split_once('.').expect("an epoch and a position");
        let ahead = [
            Start::Cursor(format!("{epoch}.6")),
            Start::Cursor(format!("{:x}.2", i64::from_str_radix(epoch, 16).unwrap() + 1)),
            Start::Position(7),
            Start::Position(i64::MAX),
        ];
        for start in ahead {
            let refused = Reader::try_open(&stage, Some(start.clone()), None).await;
            let status = refused.err().unwrap_or_else(|| panic!("{start:?} was accepted"));
            assert_eq!(status.code(), tonic::Code::OutOfRange, "{start:?}");
            assert_eq!(reason_of(&status), "CURSOR_OUT_OF_RANGE");
            assert_eq!(metadata_of(&status, "problem"), "AHEAD");
            assert_eq!(metadata_of(&status, "earliest_position"), "1");
            assert_eq!(metadata_of(&status, "latest_position"), "5");
            let earliest = Start::Cursor(metadata_of(&status, "earliest_cursor"));
            assert_eq!(seen_from(&stage, Some(earliest)).await.0, [1, 2, 3, 4, 5]);
        }
        let request = v1::ListEventsRequest {
            after_cursor: format!("{epoch}.6"),
            ..list(&stage)
        };
        assert_eq!(reason(stage.events().list_events(request).await), "CURSOR_OUT_OF_RANGE");
    })
    .await;
}

#[tokio::test]
async fn what_is_no_cursor_and_no_position_is_refused() {
    on_every_composition(|stage| async move {
        publish_many(&stage, "note.made", 3).await;
        let long = "f".repeat(100_000);
        for text in [
            "",
            "x",
            "1",
            "1.",
            ".1",
            "-1.2",
            "1.-2",
            "1.2.3",
            "1.ffffffffffffffffffff",
            " 1.2",
            "1.2\n",
            &long,
        ] {
            let refused = Reader::try_open(&stage, Some(Start::Cursor(text.into())), None).await;
            let status = refused.err().unwrap_or_else(|| panic!("{text:?} was accepted"));
            assert_eq!(reason_of(&status), "INVALID_REQUEST", "{text:?}");
        }
        for position in [0, -1, i64::MIN] {
            let refused = Reader::try_open(&stage, Some(Start::Position(position)), None).await;
            assert_eq!(reason(refused.map(|_| ())), "INVALID_REQUEST", "{position}");
        }
    })
    .await;
}
