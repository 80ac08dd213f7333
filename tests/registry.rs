//! The registry: who is there, who fits best, and who has just come or gone.

use std::collections::BTreeMap;

use drumline_proto::v1;
use tonic::{Code, Status};
use v1::agent::Status as Is;

use crate::support::agent::{Line, registration};
use crate::support::wait::soon;
use crate::support::{Stage, on_every_composition, reason, reason_of};

async fn register(stage: &Stage, request: v1::RegisterAgentRequest) -> v1::RegisterAgentResponse {
    stage.registry().register_agent(request).await.unwrap().into_inner()
}

async fn list(stage: &Stage, request: v1::ListAgentsRequest) -> Result<v1::ListAgentsResponse, Status> {
    let request = v1::ListAgentsRequest {
        namespace: stage.ns(),
        ..request
    };
    Ok(stage.registry().list_agents(request).await?.into_inner())
}

async fn found(stage: &Stage, filter: v1::AgentFilter) -> Vec<String> {
    let request = v1::ListAgentsRequest {
        filter: Some(filter),
        ..Default::default()
    };
    let response = list(stage, request).await.unwrap();
    response.agents.into_iter().map(|agent| agent.agent_id).collect()
}

async fn update(
    stage: &Stage,
    session_id: &str,
    agent: v1::Agent,
    paths: &[&str],
) -> Result<v1::UpdateAgentResponse, Status> {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let request = v1::UpdateAgentRequest {
        namespace: stage.ns(),
        session_id: session_id.into(),
        agent: Some(agent),
        update_mask: Some(prost_types::FieldMask { paths }),
        ..Default::default()
    };
    Ok(stage.registry().update_agent(request).await?.into_inner())
}

#[tokio::test]
async fn the_fittest_come_first_and_filters_narrow_them_down() {
    on_every_composition(|stage| async move {
        for (agent_id, slots, capability, tier) in [
            ("small", 1, "review", "a"),
            ("large", 8, "review", "b"),
            ("other", 4, "lint", "b"),
        ] {
            let request = v1::RegisterAgentRequest {
                max_concurrent_tasks: slots,
                labels: BTreeMap::from([("tier".into(), tier.into())]),
                capabilities: vec![v1::Capability {
                    name: capability.into(),
                    tags: vec!["Rust".into()],
                    ..Default::default()
                }],
                ..registration(&stage, agent_id)
            };
            register(&stage, request).await;
        }
        assert_eq!(
            found(&stage, v1::AgentFilter::default()).await,
            ["large", "other", "small"]
        );
        let by_capability = v1::AgentFilter {
            capability: "review".into(),
            ..Default::default()
        };
        assert_eq!(found(&stage, by_capability).await, ["large", "small"]);
        let by_label = v1::AgentFilter {
            labels: BTreeMap::from([("tier".into(), "b".into())]),
            ..Default::default()
        };
        assert_eq!(found(&stage, by_label).await, ["large", "other"]);
        let by_slots = v1::AgentFilter {
            minimum_free_slots: 2,
            capability: "review".into(),
            ..Default::default()
        };
        assert_eq!(found(&stage, by_slots).await, ["large"]);
        let by_text = |text: &str| v1::AgentFilter {
            text: text.into(),
            ..Default::default()
        };
        assert_eq!(found(&stage, by_text("rUST")).await.len(), 3);
        assert_eq!(found(&stage, by_text("lint")).await, ["other"]);
        let offline = v1::AgentFilter {
            statuses: vec![Is::Offline as i32],
            ..Default::default()
        };
        assert!(found(&stage, offline).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn pages_hold_every_agent_once() {
    on_every_composition(|stage| async move {
        for number in 0..25 {
            register(&stage, registration(&stage, &format!("agent-{number:02}"))).await;
        }
        let mut seen = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListAgentsRequest {
                page_size: 10,
                page_token: page_token.clone(),
                ..Default::default()
            };
            let page = list(&stage, request).await.unwrap();
            assert!(page.agents.len() == 10 || page.next_page_token.is_empty());
            seen.extend(page.agents.into_iter().map(|agent| agent.agent_id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let expected: Vec<String> = (0..25).map(|number| format!("agent-{number:02}")).collect();
        assert_eq!(seen, expected);
        let foreign = v1::ListAgentsRequest {
            page_token: "00".into(),
            ..Default::default()
        };
        assert_eq!(reason(list(&stage, foreign).await), "INVALID_PAGE_TOKEN");
    })
    .await;
}

#[tokio::test]
async fn a_list_waits_for_the_position_that_it_is_asked_for() {
    on_every_composition(|stage| async move {
        let registered = register(&stage, registration(&stage, "a")).await;
        for min_position in [registered.cursor, registered.position.to_string()] {
            let request = v1::ListAgentsRequest {
                min_position,
                ..Default::default()
            };
            let response = list(&stage, request).await.unwrap();
            assert!(response.position >= registered.position);
            assert_eq!(response.agents.len(), 1);
        }
        let nonsense = v1::ListAgentsRequest {
            min_position: "soon".into(),
            ..Default::default()
        };
        assert_eq!(reason(list(&stage, nonsense).await), "INVALID_REQUEST");
    })
    .await;
}

#[tokio::test]
async fn a_registration_that_is_wrong_hears_of_everything_that_is() {
    on_every_composition(|stage| async move {
        let capability = |name: &str, input_schema: &str| v1::Capability {
            name: name.into(),
            input_schema: input_schema.into(),
            ..Default::default()
        };
        let request = v1::RegisterAgentRequest {
            agent_id: "a\u{7}".into(),
            max_concurrent_tasks: -1,
            session_ttl: crate::support::duration(std::time::Duration::from_millis(10)),
            capabilities: vec![
                capability("twice", ""),
                capability("twice", "{\"type\":\"strange\"}"),
                capability("", "{\"$ref\":\"https://example.com\"}"),
            ],
            ..registration(&stage, "")
        };
        let status = stage.registry().register_agent(request).await.unwrap_err();
        assert_eq!(
            (status.code(), reason_of(&status).as_str()),
            (Code::InvalidArgument, "INVALID_REQUEST")
        );
        use tonic_types::StatusExt;
        let violations = status.get_details_bad_request().expect("violations").field_violations;
        let fields: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
        for field in [
            "agent_id",
            "max_concurrent_tasks",
            "session_ttl",
            "capabilities[1].name",
            "capabilities[1].input_schema",
            "capabilities[2].name",
            "capabilities[2].input_schema",
        ] {
            assert!(fields.contains(&field), "{field} is not among {fields:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_repeated_registration_is_answered_with_its_first_session() {
    on_every_composition(|stage| async move {
        let request = v1::RegisterAgentRequest {
            request_id: "once".into(),
            ..registration(&stage, "a")
        };
        let first = register(&stage, request.clone()).await;
        let again = register(&stage, request.clone()).await;
        assert_eq!(first.session_id, again.session_id);
        assert_eq!(first.session_id.len(), 32);
        assert_eq!(again.agent.unwrap().session_incarnation, 1);
        let other = v1::RegisterAgentRequest {
            agent_name: "another".into(),
            ..request
        };
        assert_eq!(
            reason(stage.registry().register_agent(other).await),
            "REQUEST_ID_REUSED"
        );
        // With the session shown the registration is replaced, and the session goes on.
        let request = v1::RegisterAgentRequest {
            session_id: first.session_id.clone(),
            agent_name: "renamed".into(),
            ..registration(&stage, "a")
        };
        let resumed = register(&stage, request.clone()).await;
        assert_eq!(resumed.session_id, first.session_id);
        assert_eq!(resumed.agent.unwrap().agent_name, "renamed");
        let foreign = v1::RegisterAgentRequest {
            agent_id: "b".into(),
            ..request
        };
        assert_eq!(
            reason(stage.registry().register_agent(foreign).await),
            "INVALID_REQUEST"
        );
    })
    .await;
}

#[tokio::test]
async fn an_agent_changes_only_what_its_mask_names() {
    on_every_composition(|stage| async move {
        let session_id = register(&stage, registration(&stage, "a")).await.session_id;
        let agent = v1::Agent {
            agent_name: "new".into(),
            base_url: "http://a".into(),
            status: Is::Draining as i32,
            ..Default::default()
        };
        let updated = update(&stage, &session_id, agent.clone(), &["agent_name"])
            .await
            .unwrap();
        let updated = updated.agent.unwrap();
        assert_eq!((updated.agent_name.as_str(), updated.base_url.as_str()), ("new", ""));
        assert_eq!(updated.status(), Is::Active);
        let updated = update(&stage, &session_id, agent.clone(), &[])
            .await
            .unwrap()
            .agent
            .unwrap();
        assert_eq!(
            (updated.base_url.as_str(), updated.status()),
            ("http://a", Is::Draining)
        );
        assert_eq!(updated.capabilities.len(), 1, "what is not set stays");
        let emptied = update(&stage, &session_id, v1::Agent::default(), &["capabilities"])
            .await
            .unwrap();
        assert!(emptied.agent.unwrap().capabilities.is_empty());
        assert_eq!(
            reason(update(&stage, &session_id, agent.clone(), &["session_incarnation"]).await),
            "INVALID_REQUEST"
        );
        assert_eq!(
            reason(update(&stage, "", agent.clone(), &["status"]).await),
            "SESSION_REQUIRED"
        );
        let offline = v1::Agent {
            status: Is::Offline as i32,
            ..Default::default()
        };
        assert_eq!(
            reason(update(&stage, &session_id, offline, &["status"]).await),
            "INVALID_REQUEST"
        );
    })
    .await;
}

#[tokio::test]
async fn only_the_agent_itself_or_nobody_takes_it_off_the_list() {
    on_every_composition(|stage| async move {
        let session_id = register(&stage, registration(&stage, "a")).await.session_id;
        let deregister = |session_id: &str, agent_id: &str| {
            let request = v1::DeregisterAgentRequest {
                namespace: stage.ns(),
                session_id: session_id.into(),
                agent_id: agent_id.into(),
                ..Default::default()
            };
            let mut registry = stage.registry();
            async move { registry.deregister_agent(request).await }
        };
        assert_eq!(reason(deregister("", "a").await), "SESSION_REQUIRED");
        assert_eq!(reason(deregister("", "").await), "INVALID_REQUEST");
        assert_eq!(reason(deregister("", "nobody").await), "AGENT_NOT_FOUND");
        assert_eq!(reason(deregister(&session_id, "b").await), "INVALID_REQUEST");
        deregister(&session_id, "").await.unwrap();
        assert_eq!(reason(deregister(&session_id, "").await), "SESSION_ENDED");
        assert_eq!(reason(deregister("", "a").await), "AGENT_NOT_FOUND");
        assert!(found(&stage, v1::AgentFilter::default()).await.is_empty());
        assert_eq!(
            register(&stage, registration(&stage, "a"))
                .await
                .agent
                .unwrap()
                .session_incarnation,
            2
        );
    })
    .await;
}

#[tokio::test]
async fn a_watch_sends_who_is_there_and_then_each_change() {
    on_every_composition(|stage| async move {
        let here = register(&stage, registration(&stage, "here")).await.session_id;
        let request = v1::WatchAgentsRequest {
            namespace: stage.ns(),
            filter: Some(v1::AgentFilter {
                capability: "work".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut watch = stage.registry().watch_agents(request).await.unwrap().into_inner();
        let mut next = async || soon("a change", watch.message()).await.unwrap().expect("open");
        let first = next().await;
        assert_eq!(first.agent.unwrap().agent_id, "here");
        assert!(next().await.caught_up);
        // One comes with a stream, and goes.
        let line = Line::register(&stage, registration(&stage, "fleeting")).await.unwrap();
        let come = next().await;
        assert_eq!(
            (come.agent.unwrap().agent_id.as_str(), come.removed),
            ("fleeting", false)
        );
        drop(line);
        loop {
            let change = next().await;
            let agent = change.agent.unwrap();
            assert_eq!(agent.agent_id, "fleeting");
            if change.removed {
                assert_eq!(agent.status(), Is::Offline);
                break;
            }
        }
        // One is no longer wanted.
        let updated = update(&stage, &here, v1::Agent::default(), &["capabilities"])
            .await
            .unwrap();
        let change = next().await;
        assert!(change.removed && change.position >= updated.position);
        assert_eq!(change.agent.unwrap().agent_id, "here");
    })
    .await;
}

#[tokio::test]
async fn what_happens_to_agents_is_in_the_log() {
    on_every_composition(|stage| async move {
        let session_id = register(&stage, registration(&stage, "a")).await.session_id;
        let busy = v1::Agent {
            status: Is::Busy as i32,
            ..Default::default()
        };
        update(&stage, &session_id, busy, &["status"]).await.unwrap();
        register(&stage, registration(&stage, "a")).await;
        let line = Line::register(&stage, registration(&stage, "b")).await.unwrap();
        drop(line);
        let request = v1::SubscribeRequest {
            namespace: stage.ns(),
            start: Some(v1::subscribe_request::Start::Beginning(true)),
            ..Default::default()
        };
        let mut events = stage.events().subscribe(request).await.unwrap().into_inner();
        let mut types = Vec::new();
        while types.last().is_none_or(|last| last != "agent.expired") {
            let response = soon("an event", events.message()).await.unwrap().expect("open");
            if let Some(v1::subscribe_response::Content::Event(event)) = response.content {
                types.push(event.event_type);
            }
        }
        let expected = [
            "agent.registered",
            "agent.status_change",
            "agent.registered",
            "agent.registered",
            "agent.expired",
        ];
        assert_eq!(types, expected);
    })
    .await;
}
