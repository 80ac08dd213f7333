//! Documents: versions go up by one and are never used again; a counter counts every increment once; every operation is done once.

use std::collections::{BTreeMap, BTreeSet};

use super::{Batch, Check, Verdict};
use crate::state::{Document, Version};
use crate::store::simulated::Memory;

/// The documents of a namespace. A content can say what it counts, and which operation wrote it.
#[derive(Default)]
pub struct States {
    documents: BTreeMap<String, Last>,
    ops: BTreeMap<String, (String, i64)>,
}

#[derive(Clone, Debug, Default)]
struct Last {
    version: i64,
    count: i64,
}

impl States {
    /// Whether an operation made this version of a document.
    pub fn made(&self, op: &str, state_id: &str, version: i64) -> Verdict {
        match self.ops.get(op) {
            Some((document, made)) if document == state_id && *made == version => Ok(()),
            other => Err(format!("{op} was told version {version} of {state_id}: {other:?}")),
        }
    }

    /// What a counter counts.
    pub fn count(&self, state_id: &str) -> i64 {
        self.documents.get(state_id).map_or(0, |last| last.count)
    }

    fn write(&mut self, version: &Version) -> Verdict {
        let last = self.documents.entry(version.state_id.clone()).or_default();
        if version.version != last.version + 1 {
            return Err(format!(
                "{} goes from version {} to {}",
                version.state_id, last.version, version.version
            ));
        }
        last.version = version.version;
        let Some(json) = version.payload.as_ref().and_then(|payload| payload.json()) else {
            return Ok(());
        };
        if let Some(count) = json["count"].as_i64() {
            if count != last.count + 1 {
                return Err(format!("{} was {} and is {count}", version.state_id, last.count));
            }
            last.count = count;
        }
        if let Some(op) = json["op"].as_str() {
            let made = (version.state_id.clone(), version.version);
            if let Some(before) = self.ops.insert(op.to_owned(), made) {
                return Err(format!("{op} was done twice: {before:?} and {version:?}"));
            }
        }
        Ok(())
    }
}

impl Check for States {
    fn committed(&mut self, batch: &Batch) -> Verdict {
        let mut versions: Vec<Version> = batch.put();
        versions.sort_by_key(|version| (version.state_id.clone(), version.version));
        versions.iter().try_for_each(|version| self.write(version))?;
        for document in batch.put::<Document>() {
            let last = self.documents.get(&document.state_id).cloned().unwrap_or_default();
            if document.version != last.version {
                return Err(format!("{document:?} is not {last:?}"));
            }
        }
        Ok(())
    }

    fn failed_over(&mut self, namespace: &str, memory: &Memory) {
        let mut kept = BTreeSet::new();
        self.documents.clear();
        for document in memory.rows::<Document>(namespace) {
            let json = document.payload.as_ref().and_then(|payload| payload.json());
            let last = Last {
                version: document.version,
                count: json.and_then(|json| json["count"].as_i64()).unwrap_or(0),
            };
            kept.insert(document.state_id.clone());
            self.documents.insert(document.state_id, last);
        }
        // What was lost may be done again.
        let documents = &self.documents;
        self.ops
            .retain(|_, (document, version)| documents.get(document).is_some_and(|last| last.version >= *version));
    }
}
