//! An event of the log as the demo reads it: the few fields that its timeline and its chaos look at.

use drumline::v1 as pb;
use serde_json::Value;

/// What an event says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fact {
    /// Its type.
    pub event_type: String,
    /// What it is about.
    pub subject: String,
    /// The agent that did it, has it, or lost it.
    pub agent: String,
    /// Its data.
    pub data: Value,
}

impl Fact {
    /// Reads an event. What is not there is empty.
    pub fn of(event: &pb::Event) -> Fact {
        let payload = event.payload.as_ref();
        let data = payload.and_then(|payload| drumline::payload::to_json(payload).ok());
        let data = data.unwrap_or_default();
        let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
        let agent = match event.event_type.as_str() {
            "task.reassigned" => text("from_agent"),
            _ if !event.source_agent.is_empty() => event.source_agent.clone(),
            _ => text("agent_id"),
        };
        Fact {
            event_type: event.event_type.clone(),
            subject: event.subject.clone(),
            agent,
            data,
        }
    }

    /// A text in its data.
    pub fn text(&self, key: &str) -> &str {
        self.data[key].as_str().unwrap_or_default()
    }

    /// A number in its data; 0 if there is none.
    pub fn number(&self, key: &str) -> i64 {
        self.data[key].as_i64().unwrap_or_default()
    }

    /// The capability that its task needs.
    pub fn capability(&self) -> &str {
        self.text("capability")
    }

    /// Its task for people: `review.chunk #3`.
    pub fn task(&self) -> String {
        match (self.capability(), self.text("item_key")) {
            (super::work::CHUNK, key) if !key.is_empty() => format!("{} #{key}", super::work::CHUNK),
            (capability, _) => capability.to_owned(),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    /// An event about a task.
    pub fn task_fact(event_type: &str, task: &str, capability: &str, agent: &str, attempt: i64) -> Fact {
        Fact {
            event_type: event_type.to_owned(),
            subject: task.to_owned(),
            agent: agent.to_owned(),
            data: json!({ "task_id": task, "capability": capability, "attempt": attempt, "item_key": "3" }),
        }
    }

    #[test]
    fn the_agent_of_a_lost_attempt_is_the_one_that_lost_it() {
        let event = pb::Event {
            event_type: "task.reassigned".into(),
            subject: "t".into(),
            payload: drumline::payload::json(&json!({
                "task_id": "t", "agent_id": "a", "from_agent": "a", "attempt": 1,
                "capability": "review.chunk", "item_key": "3",
            }))
            .ok(),
            ..Default::default()
        };
        let fact = Fact::of(&event);
        assert_eq!(
            (fact.agent.as_str(), fact.task().as_str(), fact.number("attempt")),
            ("a", "review.chunk #3", 1)
        );
        assert_eq!(Fact::of(&pb::Event::default()), Fact::default());
    }
}
