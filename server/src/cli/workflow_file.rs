//! Workflows in files: protobuf's JSON of a `StartWorkflowRequest`, with plain JSON wherever the contract has a payload.

use drumline::v1::StartWorkflowRequest;

use super::{Failure, json, parse};

/// Reads a workflow from a file, or from standard input where its name is `-`.
pub fn read(path: &str) -> Result<StartWorkflowRequest, Failure> {
    let bytes = match path {
        "-" => parse::stdin()?,
        path => std::fs::read(path).map_err(|error| Failure::usage(format!("{path}: {error}")))?,
    };
    let text = String::from_utf8(bytes).map_err(|_error| Failure::usage(format!("{path} is not UTF-8")))?;
    json::read(&text, "StartWorkflowRequest")
}

#[cfg(test)]
mod tests {
    use super::*;
    use drumline::v1 as pb;

    #[test]
    fn a_workflow_is_read_from_a_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = r#"{
            "workflowType": "SEQUENTIAL",
            "steps": [{"stepId": "a", "capability": "echo", "input": {"n": 1}, "onFailure": "skip"}]
        }"#;
        std::fs::write(file.path(), text).expect("written");
        let request = read(&file.path().display().to_string()).expect("a workflow");
        assert_eq!(request.workflow_type(), pb::WorkflowType::Sequential);
        assert_eq!(request.steps[0].on_failure(), pb::OnFailure::Skip);
        assert!(matches!(read("/no/such/file"), Err(Failure::Usage(_))));
    }
}
