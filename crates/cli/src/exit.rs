//! Exit codes: what a script can decide by.

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// Failed; also damaged, forged and newer objects.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// Done, but something was left out or is not as it was.
    Problems = 3,
    /// There is no repository.
    NoRepository = 10,
    /// Another run has it.
    Busy = 11,
    /// A key is wrong or missing.
    Key = 12,
}

impl Exit {
    /// All of them, for the help text.
    pub(crate) const ALL: [(Self, &'static str); 7] = [
        (Self::Ok, "done"),
        (Self::Failed, "failed; damaged or forged objects too"),
        (Self::Usage, "wrong usage or configuration"),
        (Self::Problems, "done, with problems that are listed"),
        (Self::NoRepository, "no repository"),
        (Self::Busy, "locked or busy"),
        (Self::Key, "wrong or missing key"),
    ];

    /// The number.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// The exit of this number; failed for any that is not ours.
    pub(crate) fn from_code(code: u8) -> Self {
        Self::ALL.into_iter().map(|(exit, _)| exit).find(|exit| exit.code() == code).unwrap_or(Self::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_rely_on_these_numbers() {
        let numbers = Exit::ALL.map(|(exit, _)| (exit.code(), format!("{exit:?}")));
        let expected =
            [(0, "Ok"), (1, "Failed"), (2, "Usage"), (3, "Problems"), (10, "NoRepository"), (11, "Busy"), (12, "Key")];
        assert_eq!(numbers, expected.map(|(number, name)| (number, name.to_owned())));
        assert_eq!(Exit::from_code(12), Exit::Key);
        assert_eq!(Exit::from_code(77), Exit::Failed);
    }
}
