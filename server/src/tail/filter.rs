//! Which events a reader wants, and under which key the feed finds the reader without asking every one.

use crate::events::Event;

/// A pattern of event types: segments between dots, `*` for any one, `**` for any number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    segments: Vec<String>,
}

impl Pattern {
    /// A pattern from its text. Every text is one.
    pub fn new(text: &str) -> Pattern {
        Pattern {
            segments: text.split('.').map(str::to_owned).collect(),
        }
    }

    /// The type itself, if there is nothing to fill in.
    fn literal(&self) -> Option<String> {
        let wild = self.segments.iter().any(|segment| segment == "*" || segment == "**");
        (!wild).then(|| self.segments.join("."))
    }

    /// Whether an event type fits.
    pub fn matches(&self, event_type: &str) -> bool {
        let segments: Vec<&str> = event_type.split('.').collect();
        matches_segments(&self.segments, &segments)
    }
}

/// The usual greedy match with one place to come back to: linear for one `**`, at most quadratic for many.
fn matches_segments(pattern: &[String], segments: &[&str]) -> bool {
    let (mut p, mut s) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while s < segments.len() {
        if p < pattern.len() && pattern[p] == "**" {
            retry = Some((p, s));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == "*" || pattern[p] == segments[s]) {
            p += 1;
            s += 1;
        } else if let Some((star, from)) = retry {
            p = star + 1;
            s = from + 1;
            retry = Some((star, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|segment| segment == "**")
}

/// Which events. Every condition that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Any of these types; empty: all.
    pub types: Vec<Pattern>,
    /// The agent that said it.
    pub source: Option<String>,
    /// The agent that it is meant for.
    pub target: Option<String>,
    /// The undertaking.
    pub correlation: Option<String>,
    /// What caused it.
    pub causation: Option<String>,
    /// What it is about.
    pub subject: Option<String>,
    /// The beginning of what it is about.
    pub subject_prefix: String,
    /// The least priority.
    pub minimum_priority: Option<i32>,
}

impl Filter {
    /// Events about a subject, of the types of a room (`task.**`).
    pub fn about(types: &str, subject: impl Into<String>) -> Filter {
        Filter {
            types: vec![Pattern::new(types)],
            subject: Some(subject.into()),
            ..Filter::default()
        }
    }

    /// Whether an event is wanted.
    pub fn matches(&self, event: &Event) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        is(&self.causation, &event.causation_id)
            && is(&self.correlation, event.correlation_id.as_deref().unwrap_or_default())
            && is(&self.subject, &event.subject)
            && is(&self.target, &event.target_agent)
            && is(&self.source, &event.source_agent)
            && event.subject.starts_with(&self.subject_prefix)
            && self.minimum_priority.is_none_or(|least| event.priority >= least)
            && (self.types.is_empty() || self.types.iter().any(|pattern| pattern.matches(&event.event_type)))
    }

    /// The keys that every wanted event has at least one of: the most telling condition that the filter has.
    pub(super) fn fan_keys(&self) -> Vec<FanKey> {
        let exact = [
            (FanField::Causation, &self.causation),
            (FanField::Correlation, &self.correlation),
            (FanField::Subject, &self.subject),
            (FanField::Target, &self.target),
            (FanField::Source, &self.source),
        ];
        for (field, value) in exact {
            if let Some(value) = value {
                return vec![(field, value.clone())];
            }
        }
        let literals: Option<Vec<String>> = self.types.iter().map(Pattern::literal).collect();
        match literals {
            Some(literals) if !literals.is_empty() => {
                literals.into_iter().map(|literal| (FanField::Type, literal)).collect()
            }
            _ => vec![(FanField::Any, String::new())],
        }
    }
}

/// A field by which the feed finds readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum FanField {
    Causation,
    Correlation,
    Subject,
    Target,
    Source,
    Type,
    Any,
}

/// A key by which the feed finds readers.
pub(super) type FanKey = (FanField, String);

/// Every key that an event can be found by.
pub(super) fn keys_of(event: &Event) -> [FanKey; 7] {
    [
        (FanField::Causation, event.causation_id.clone()),
        (FanField::Correlation, event.correlation_id.clone().unwrap_or_default()),
        (FanField::Subject, event.subject.clone()),
        (FanField::Target, event.target_agent.clone()),
        (FanField::Source, event.source_agent.clone()),
        (FanField::Type, event.event_type.clone()),
        (FanField::Any, String::new()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, without cleverness.
    fn slow(pattern: &[String], segments: &[&str]) -> bool {
        match (pattern.split_first(), segments.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some((first, rest)), _) if first == "**" => {
                slow(rest, segments) || segments.split_first().is_some_and(|(_, tail)| slow(pattern, tail))
            }
            (Some(_), None) => false,
            (Some((first, rest)), Some((segment, tail))) => (first == "*" || first == segment) && slow(rest, tail),
        }
    }

    proptest! {
        #[test]
        fn a_pattern_matches_as_its_definition_says(
            pattern in prop::collection::vec(prop_oneof!["a", "b", "\\*", "\\*\\*"], 1..6),
            segments in prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c")], 1..7),
        ) {
            prop_assert_eq!(Pattern { segments: pattern.clone() }.matches(&segments.join(".")), slow(&pattern, &segments));
        }

        #[test]
        fn a_wanted_event_has_one_of_the_filters_keys(
            filter_fields in prop::collection::vec(prop::option::of("[ab]"), 5),
            event_fields in prop::collection::vec("[ab]", 6),
            types in prop::collection::vec(prop_oneof!["a", "b", "\\*"], 0..3),
        ) {
            let filter = Filter {
                types: types.iter().map(|text| Pattern::new(text)).collect(),
                source: filter_fields[0].clone(),
                target: filter_fields[1].clone(),
                correlation: filter_fields[2].clone(),
                causation: filter_fields[3].clone(),
                subject: filter_fields[4].clone(),
                ..Filter::default()
            };
            let draft = crate::events::Draft::new(&event_fields[5], event_fields[4].clone())
                .source(event_fields[0].clone())
                .target(event_fields[1].clone())
                .correlation(event_fields[2].clone())
                .causation(event_fields[3].clone());
            let event = draft.at(1, crate::time::Time(0));
            if filter.matches(&event) {
                let keys = keys_of(&event);
                prop_assert!(filter.fan_keys().iter().any(|key| keys.contains(key)));
            }
        }
    }
}
