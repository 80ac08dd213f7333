//! A request that is sent again, however often and at once, is done once.

use drumline_proto::v1;

use super::{get, put};
use crate::events::{about, list, list_all};
use crate::support::{json, on_every_composition, reason, reason_of};

#[tokio::test]
async fn fifty_identical_requests_at_once_are_one_change_with_one_answer() {
    on_every_composition(|stage| async move {
        let puts = (0..50).map(|_| {
            let stage = stage.clone();
            let request = v1::PutStateRequest {
                request_id: "once".into(),
                ..put(&stage, "doc", json("1"))
            };
            tokio::spawn(async move { stage.state().put_state(request).await.unwrap().into_inner() })
        });
        let publications = (0..50).map(|_| {
            let stage = stage.clone();
            let request = v1::PublishEventsRequest {
                namespace: stage.ns(),
                request_id: "once".into(),
                events: vec![about("note.made", "1"), about("note.made", "2")],
                ..Default::default()
            };
            tokio::spawn(async move { stage.events().publish_events(request).await.unwrap().into_inner() })
        });
        let (puts, publications) = (puts.collect::<Vec<_>>(), publications.collect::<Vec<_>>());
        let puts: Vec<_> = futures::future::join_all(puts)
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert!(puts.iter().all(|answer| *answer == puts[0]), "{puts:?}");
        assert_eq!(get(&stage, "doc").await.unwrap().version, 1);
        let publications = futures::future::join_all(publications).await;
        let publications: Vec<_> = publications.into_iter().map(Result::unwrap).collect();
        assert!(
            publications.iter().all(|answer| *answer == publications[0]),
            "{publications:?}"
        );
        assert!(publications[0].events.iter().all(|event| !event.duplicate));
        // One change of a document and two events.
        assert_eq!(list_all(&stage, list(&stage)).await.0.len(), 3);

        // The answer is the first one, also when the world has moved on.
        stage.state().put_state(put(&stage, "doc", json("2"))).await.unwrap();
        let again = v1::PutStateRequest {
            request_id: "once".into(),
            ..put(&stage, "doc", json("1"))
        };
        assert_eq!(stage.state().put_state(again).await.unwrap().into_inner(), puts[0]);
        assert_eq!(get(&stage, "doc").await.unwrap().payload, json("2"));
    })
    .await;
}

#[tokio::test]
async fn of_different_requests_with_one_id_one_is_done() {
    on_every_composition(|stage| async move {
        let puts = (0..40).map(|n| {
            let stage = stage.clone();
            tokio::spawn(async move {
                let content = n % 4;
                let request = v1::PutStateRequest {
                    request_id: "once".into(),
                    ..put(&stage, "doc", json(&content.to_string()))
                };
                (content, stage.state().put_state(request).await)
            })
        });
        let mut done = Vec::new();
        for outcome in futures::future::join_all(puts).await {
            match outcome.unwrap() {
                (content, Ok(_)) => done.push(content),
                (_, Err(status)) => assert_eq!(reason_of(&status), "REQUEST_ID_REUSED"),
            }
        }
        assert_eq!(done.len(), 10);
        assert!(done.iter().all(|content| *content == done[0]));
        let state = get(&stage, "doc").await.unwrap();
        assert_eq!((state.version, state.payload), (1, json(&done[0].to_string())));
    })
    .await;
}

#[tokio::test]
async fn a_request_id_belongs_to_its_method() {
    on_every_composition(|stage| async move {
        let request = v1::PutStateRequest {
            request_id: "r".into(),
            ..put(&stage, "doc", json("1"))
        };
        stage.state().put_state(request.clone()).await.unwrap();
        let delete = v1::DeleteStateRequest {
            namespace: stage.ns(),
            request_id: "r".into(),
            state_id: "doc".into(),
            ..Default::default()
        };
        let deleted = stage.state().delete_state(delete.clone()).await.unwrap().into_inner();
        assert_eq!(deleted.version, 2);
        assert_eq!(stage.state().delete_state(delete).await.unwrap().into_inner(), deleted);
        assert_eq!(stage.state().put_state(request).await.unwrap().into_inner().version, 1);
        assert_eq!(reason(get(&stage, "doc").await), "STATE_NOT_FOUND");
    })
    .await;
}

#[tokio::test]
async fn a_repeated_request_is_known_again_whatever_the_order_of_its_labels() {
    on_every_composition(|stage| async move {
        let labels = (0..40).map(|n| (format!("label-{n}"), n.to_string())).collect();
        let request = v1::RegisterAgentRequest {
            namespace: stage.ns(),
            request_id: "once".into(),
            agent_id: "agent".into(),
            labels,
            ..Default::default()
        };
        let first = stage
            .registry()
            .register_agent(request.clone())
            .await
            .unwrap()
            .into_inner();
        for _ in 0..5 {
            let again = stage
                .registry()
                .register_agent(request.clone())
                .await
                .unwrap()
                .into_inner();
            assert_eq!(
                (again.session_id, again.position),
                (first.session_id.clone(), first.position)
            );
        }
    })
    .await;
}
