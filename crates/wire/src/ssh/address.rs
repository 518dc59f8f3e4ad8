use std::fmt;
use std::str::FromStr;

/// Whom to reach as a URL names it: `user@host:port`, where host may be an alias of `~/.ssh/config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The account on the server, where it is named.
    pub user: Option<String>,
    /// Name, alias or number of the host; numbers of version 6 without brackets.
    pub host: String,
    /// The port, where it is named.
    pub port: Option<u16>,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, place) = match text.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, text),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err("it holds a password; servers are reached with keys".to_owned());
        }
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or("after ] comes : and a port")?)),
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:%".contains(c);
        if host.is_empty() || host.starts_with('-') || !host.chars().all(plain) {
            return Err(format!("{host:?} is not the name of a host"));
        }
        let odd = |c: char| c.is_control() || c.is_whitespace();
        if user.is_some_and(|user| user.is_empty() || user.contains(odd)) {
            return Err("the name of the user is missing".to_owned());
        }
        let port = port.map(|port| match port.parse() {
            Ok(0) | Err(_) => Err(format!("{port:?} is not a port")),
            Ok(port) => Ok(port),
        });
        Ok(Self { user: user.map(str::to_owned), host: host.to_owned(), port: port.transpose()? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_port_may_be_left_out() {
        for (text, user, host, port) in [
            ("backup@nas.example:2222", Some("backup"), "nas.example", Some(2222)),
            ("nas", None, "nas", None),
            ("u@[::1]:22", Some("u"), "::1", Some(22)),
            ("[fe80::1%eth0]", None, "fe80::1%eth0", None),
            ("a@b@host", Some("a@b"), "host", None),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!((address.user.as_deref(), address.host.as_str(), address.port), (user, host, port));
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn passwords_options_and_odd_ports_are_refused() {
        for bad in ["u:secret@h", "", "u@", "@h", "-oProxyCommand=x", "h:0", "h:70000", "h:x", "[::1]x", "a b"] {
            let error = bad.parse::<Address>().expect_err(bad);
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
