//! What each rule says, told in small.
