//! Connection URLs in the form that PostgreSQL's own tools take.

use std::path::PathBuf;

use crate::SourceError;

/// Where a server is and how to speak to it, without secrets but for a password in the URL.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl {
    /// Name, address, or the directory of the Unix socket.
    pub host: String,
    /// 5432 unless given.
    pub port: u16,
    /// The role to log in as; `postgres` unless given.
    pub user: String,
    /// Known from the URL only.
    pub password: Option<String>,
    /// The database that is connected to first; `postgres` unless given.
    pub database: String,
    /// What TLS has to prove.
    pub ssl_mode: SslMode,
    /// File of certificates that the server's must lead to; `system` for those of the machine.
    pub ssl_root_cert: Option<PathBuf>,
    /// File of the client's own certificate.
    pub ssl_cert: Option<PathBuf>,
    /// File of its key.
    pub ssl_key: Option<PathBuf>,
}

/// What TLS has to prove, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS where the server has it; proves nothing.
    Prefer,
    /// TLS always; proves nothing, unless `sslrootcert` is given: then as [`SslMode::VerifyCa`].
    Require,
    /// The server's certificate leads to a known authority.
    VerifyCa,
    /// And it bears the name that was connected to.
    VerifyFull,
}

impl SslMode {
    /// The word for it in URLs and in `PGSSLMODE`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    fn of(word: &str) -> Option<Self> {
        let all = [Self::Disable, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];
        all.into_iter().find(|mode| mode.word() == word)
    }
}

impl std::fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerUrl({self})")
    }
}

impl std::fmt::Display for ServerUrl {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "postgres://{}@{}:{}", self.user, self.host, self.port)
    }
}

impl ServerUrl {
    /// Reads `postgres://[user[:password]@][host][:port][/database][?name=value&...]`, every part
    /// percent-encoded where needed.
    ///
    /// # Errors
    /// [`SourceError::Config`] names what cannot be understood; never the password.
    pub fn parse(url: &str) -> Result<Self, SourceError> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let rest = rest.ok_or_else(|| bad("a PostgreSQL url starts with postgres://".to_owned()))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').map_or((login, None), |(user, word)| (user, Some(word)));
        let (host, port) = split_port(address)?;
        let mut parsed = Self {
            host: decode(host)?,
            port: port.unwrap_or(5432),
            user: decode(user)?,
            password: password.map(decode).transpose()?,
            database: decode(database)?,
            ssl_mode: SslMode::Prefer,
            ssl_root_cert: None,
            ssl_cert: None,
            ssl_key: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parsed.parameter(name, decode(value)?)?;
        }
        for (field, default) in
            [(&mut parsed.user, "postgres"), (&mut parsed.database, "postgres"), (&mut parsed.host, "/run/postgresql")]
        {
            if field.is_empty() {
                default.clone_into(field);
            }
        }
        parsed.checked()
    }

    /// Whether [`ServerUrl::host`] is the directory of a Unix socket.
    #[must_use]
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    fn parameter(&mut self, name: &str, value: String) -> Result<(), SourceError> {
        match name {
            "host" => self.host = value,
            "port" => self.port = value.parse().map_err(|_| bad(format!("{value:?} is no port")))?,
            "user" => self.user = value,
            "password" => self.password = Some(value),
            "dbname" => self.database = value,
            // `allow` differs from `prefer` in the order of its attempts only.
            "sslmode" if value == "allow" => self.ssl_mode = SslMode::Prefer,
            "sslmode" => {
                self.ssl_mode = SslMode::of(&value).ok_or_else(|| bad(format!("{value:?} is no sslmode")))?;
            }
            "sslrootcert" => self.ssl_root_cert = Some(value.into()),
            "sslcert" => self.ssl_cert = Some(value.into()),
            "sslkey" => self.ssl_key = Some(value.into()),
            _ => return Err(bad(format!("the url parameter {name:?} is not known here"))),
        }
        Ok(())
    }

    fn checked(mut self) -> Result<Self, SourceError> {
        // As PostgreSQL's own tools do: who names an authority wants it to be proved.
        if self.ssl_mode == SslMode::Require && self.ssl_root_cert.is_some() {
            self.ssl_mode = SslMode::VerifyCa;
        }
        if self.host.contains(',') {
            return Err(bad("a url names one host".to_owned()));
        }
        if self.ssl_mode >= SslMode::VerifyCa && self.ssl_root_cert.is_none() {
            let what = format!("sslmode={} needs sslrootcert", self.ssl_mode.word());
            let hint = Some("add &sslrootcert=FILE, or &sslrootcert=system for the machine's own".to_owned());
            return Err(SourceError::Config { what, hint });
        }
        if self.ssl_cert.is_some() != self.ssl_key.is_some() {
            return Err(bad("sslcert and sslkey belong together".to_owned()));
        }
        Ok(self)
    }
}

fn bad(what: String) -> SourceError {
    SourceError::Config { what, hint: None }
}

fn split_port(address: &str) -> Result<(&str, Option<u16>), SourceError> {
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(|| bad("a bracket of the host is not closed".to_owned()))?;
        (host, rest.strip_prefix(':').unwrap_or(rest))
    } else {
        address.rsplit_once(':').unwrap_or((address, ""))
    };
    if port.is_empty() {
        return Ok((host, None));
    }
    port.parse().map(|port| (host, Some(port))).map_err(|_| bad(format!("{port:?} is no port")))
}

fn decode(text: &str) -> Result<String, SourceError> {
    let wrong = || bad("a percent sign of the url is not followed by two hexadecimal digits of UTF-8".to_owned());
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).ok_or_else(wrong);
        let value = digit()? * 16 + digit()?;
        out.push(u8::try_from(value).map_err(|_| wrong())?);
    }
    String::from_utf8(out).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_url_is_understood() {
        let url = ServerUrl::parse("postgres://back%40up:p%3Aw@[::1]:5433/events?sslmode=require").expect("good");
        assert_eq!((url.user.as_str(), url.password.as_deref()), ("back@up", Some("p:w")));
        assert_eq!((url.host.as_str(), url.port, url.database.as_str()), ("::1", 5433, "events"));
        assert_eq!(url.ssl_mode, SslMode::Require);
        assert_eq!(url.to_string(), "postgres://back@up@::1:5433", "no password");
        let url = ServerUrl::parse("postgresql:///?host=%2Ftmp&port=7").expect("good");
        assert!(url.is_socket());
        assert_eq!((url.host.as_str(), url.port, url.user.as_str()), ("/tmp", 7, "postgres"));
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said_without_its_password() {
        for (url, complaint) in [
            ("mysql://x", "starts with postgres://"),
            ("postgres://u:secret@h:x/", "\"x\" is no port"),
            ("postgres://u:secret@h/?sslmode=maybe", "\"maybe\" is no sslmode"),
            ("postgres://u:secret@h/?sslmode=verify-full", "needs sslrootcert"),
            ("postgres://u:secret@h/?sslcert=x", "belong together"),
            ("postgres://u:secret@h/?color=red", "\"color\" is not known"),
            ("postgres://u:secret@h,i/", "one host"),
            ("postgres://u:secret%zz@h/", "percent sign"),
        ] {
            let text = ServerUrl::parse(url).expect_err(url).to_string();
            assert!(text.contains(complaint) && !text.contains("secret"), "{url}: {text}");
        }
    }
}
