//! URLs that may hold a password.

use std::fmt;

/// What stands where a password was.
const HIDDEN: &str = "***";

/// A URL that shows itself without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// A URL, as it was given.
    pub fn new(url: impl Into<String>) -> SecretUrl {
        SecretUrl(url.into())
    }

    /// All of it: for whoever connects, and for nobody else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is anything to hide in it.
    pub fn has_secret(&self) -> bool {
        self.to_string() != self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is malformed hides more rather than less: a password with an unescaped `@`, `/` or `?` is hidden too.
        let Some((scheme, rest)) = self.0.split_once("://") else {
            return f.write_str(match self.0.split_once(':') {
                Some(("sqlite", _)) => &self.0,
                _ => HIDDEN,
            });
        };
        let (user, rest) = match rest.rsplit_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        write!(f, "{scheme}://")?;
        if let Some(user) = user {
            match user.split_once(':') {
                Some((name, _)) => write!(f, "{name}:{HIDDEN}@")?,
                None => write!(f, "{user}@")?,
            }
        }
        let Some((place, parameters)) = rest.split_once('?') else {
            return f.write_str(rest);
        };
        f.write_str(place)?;
        for (number, parameter) in parameters.split('&').enumerate() {
            f.write_str(if number == 0 { "?" } else { "&" })?;
            match parameter.split_once('=') {
                Some((name, _)) if name.to_ascii_lowercase().contains("pass") => write!(f, "{name}={HIDDEN}")?,
                _ => f.write_str(parameter)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}
