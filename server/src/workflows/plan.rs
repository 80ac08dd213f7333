//! Checks of a workflow before it starts.
