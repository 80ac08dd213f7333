//! Passwords on the command line: every user of the machine can read a process's arguments, so they do not stay there.
//!
//! A program cannot change its arguments without unsafe code, but it can begin again with others: it does so at once, before anything
//! else, with the passwords hidden, and finds what was there in its environment, which only its own user can read. The process id, the
//! streams and everything else stay what they are.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::config::{SETTINGS, SecretUrl};

/// Begins the program again without the passwords among its arguments, if there are any. Does not return then.
pub fn passwords() {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let Some((program, arguments)) = arguments.split_first() else {
        return;
    };
    let (covered, secrets) = cover(arguments);
    if secrets.is_empty() {
        return;
    }
    let Ok(executable) = std::env::current_exe() else {
        return;
    };
    // If this fails there is no way to hide them.
    let _failed = Command::new(executable)
        .arg0(program)
        .args(covered)
        .envs(secrets)
        .exec();
}

/// The arguments without passwords, and the variables that hold them instead.
fn cover(arguments: &[OsString]) -> (Vec<OsString>, Vec<(String, String)>) {
    let mut secrets = Vec::new();
    let mut covered = Vec::with_capacity(arguments.len());
    let mut flag = None;
    for argument in arguments {
        let text = argument.to_str().unwrap_or_default();
        // What comes after is another program's.
        if text == "--" {
            break;
        }
        let (prefix, value, setting) = match (flag.take(), text.split_once('=')) {
            (Some(setting), _) => (String::new(), text, Some(setting)),
            (None, Some((name, value))) => (format!("{name}="), value, secret(name)),
            (None, None) => {
                flag = secret(text);
                (String::new(), text, None)
            }
        };
        let url = SecretUrl::new(value);
        match setting {
            Some(setting) if url.has_secret() => {
                secrets.push((setting.covered_variable(), value.to_owned()));
                covered.push(OsString::from(format!("{prefix}{url}")));
            }
            _ => covered.push(argument.clone()),
        }
    }
    covered.extend(arguments.iter().skip(covered.len()).cloned());
    (covered, secrets)
}

/// The setting that a flag gives, if it is one that may hold a password.
fn secret(flag: &str) -> Option<&'static crate::config::Setting> {
    let name = flag.strip_prefix("--")?;
    let is_it = |setting: &&&crate::config::Setting| setting.name == name && setting.is_secret();
    SETTINGS.iter().find(is_it).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(line: &str) -> (String, Vec<(String, String)>) {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let (covered, secrets) = cover(&arguments);
        let covered: Vec<String> = covered
            .into_iter()
            .map(|word| word.into_string().expect("text"))
            .collect();
        (covered.join(" "), secrets)
    }

    #[test]
    fn passwords_are_covered_and_nothing_else_is_touched() {
        let (line, secrets) = covered(
            "serve --database-url postgres://u:p@h/d --redis-url=redis://:q@r:1 --insecure -- --database-url postgres://u:p@h/d",
        );
        assert_eq!(
            line,
            "serve --database-url postgres://u:***@h/d --redis-url=redis://:***@r:1 --insecure -- --database-url postgres://u:p@h/d"
        );
        let values: Vec<&str> = secrets.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["postgres://u:p@h/d", "redis://:q@r:1"]);
        for line in [
            "serve --database-url postgres://u@h/d",
            "serve --database-url-file postgres://u:p@h/d",
            "state put a --database-url",
            "serve",
        ] {
            assert_eq!(covered(line), (line.to_owned(), Vec::new()));
        }
    }
}
