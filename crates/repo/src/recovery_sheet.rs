//! The owner's key on paper, to be typed in by hand when nothing else is left.
//! `docs/format.md`, section "Recovery sheet".

use std::fmt::Write;

use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::crypt::{Secret, SignKey};
use crate::keyfile::{IdentityKey, KeyFileError, OwnerKey};
use crate::object::RepositoryId;

/// Bytes of the secret on one line.
const LINE_BYTES: usize = 8;
/// Root seed, identity seed, repository id, and a check over the three.
const SHEET_BYTES: usize = 32 + 32 + 16 + 8;
const LINES: usize = SHEET_BYTES / LINE_BYTES;

/// Text for the safe: whose backups these are, the secret in numbered lines with a checksum each,
/// and the commands that use it. Print it; do not keep it as a file.
#[must_use]
pub fn print(owner: &OwnerKey, url: &str, printed: Timestamp) -> Zeroizing<String> {
    let identity = &owner.identity;
    let mut out = Zeroizing::new(String::with_capacity(4096));
    let _ = write!(
        out,
        "LIFEBOAT RECOVERY SHEET

Keep this sheet in a safe place. Whoever has it and can reach the store can read
every backup in this repository and decide who else may.

  repository  {}
  store       {url}
  root        {}
  printed     {}

The secret. Each line has a number, four groups of digits (0-9 and a-f) and,
after the slash, four digits that check the line.

",
        identity.repository,
        identity.root,
        printed.strftime("%Y-%m-%d"),
    );
    let secret = payload(owner);
    for (at, line) in secret.chunks_exact(LINE_BYTES).enumerate() {
        let _ = write!(out, "  {:02}:", at + 1);
        for group in line.chunks_exact(2) {
            let _ = write!(out, " {:02x}{:02x}", group[0], group[1]);
        }
        let [a, b] = line_check(at + 1, line);
        let _ = writeln!(out, " / {a:02x}{b:02x}");
    }
    let _ = write!(
        out,
        "
To use it on any machine that has lifeboat: type the numbered lines into a file,
then make it private and try it.

  chmod 600 FILE
  lifeboat key test FILE --url {url}
  lifeboat recover {url} --identity FILE
"
    );
    out
}

/// Reads a sheet, or its numbered lines alone, in any order.
///
/// # Errors
/// [`KeyFileError::Line`] names the line with a mistake; [`KeyFileError::NotAKeyFile`] where there
/// is no numbered line at all.
///
/// # Panics
/// Never: slices of fixed length.
pub fn parse(text: &str) -> Result<OwnerKey, KeyFileError> {
    let mut lines = [const { None::<Zeroizing<[u8; LINE_BYTES]>> }; LINES];
    for text in text.lines() {
        let Some((number, digits)) = numbered(text) else { continue };
        let slot = number
            .checked_sub(1)
            .and_then(|at| lines.get_mut(at))
            .ok_or(KeyFileError::Line { line: number, why: "is not a line of a sheet" })?;
        let read = parse_line(number, digits)?;
        if slot.replace(read).is_some() {
            return Err(KeyFileError::Line { line: number, why: "stands twice" });
        }
    }
    if lines.iter().all(Option::is_none) {
        return Err(KeyFileError::NotAKeyFile);
    }
    let mut secret = Zeroizing::new([0; SHEET_BYTES]);
    for (at, line) in lines.iter().enumerate() {
        let line = line.as_ref().ok_or(KeyFileError::Line { line: at + 1, why: "is missing" })?;
        secret[at * LINE_BYTES..][..LINE_BYTES].copy_from_slice(&line[..]);
    }
    let part = |from: usize| Secret(secret[from..from + 32].try_into().expect("32 bytes"));
    let root = SignKey(part(0));
    let repository = RepositoryId(secret[64..80].try_into().expect("16 bytes"));
    let identity = IdentityKey { repository, root: root.verify_key(), seed: part(32) };
    let owner = OwnerKey { root, identity };
    if *payload(&owner) == *secret { Ok(owner) } else { Err(KeyFileError::Checksum) }
}

/// The number and the rest of a line that starts like `07:`.
fn numbered(line: &str) -> Option<(usize, &str)> {
    let (number, digits) = line.trim().split_once(':')?;
    Some((number.parse().ok()?, digits))
}

fn parse_line(number: usize, text: &str) -> Result<Zeroizing<[u8; LINE_BYTES]>, KeyFileError> {
    let wrong = |why| KeyFileError::Line { line: number, why };
    let mut digits = Zeroizing::new(Vec::with_capacity(2 * LINE_BYTES + 4));
    for letter in text.chars().filter(|letter| !letter.is_whitespace() && !matches!(letter, '/' | '-')) {
        let digit = match letter.to_ascii_lowercase() {
            // What hands and eyes take for a digit; no other letter looks like it.
            'o' => 0,
            'l' | 'i' => 1,
            letter => letter.to_digit(16).ok_or(wrong("has a sign that is no digit 0-9 or a-f"))?,
        };
        if digits.len() == 2 * LINE_BYTES + 4 {
            return Err(wrong("has too many digits"));
        }
        digits.push(u8::try_from(digit).expect("below 16"));
    }
    if digits.len() < 2 * LINE_BYTES + 4 {
        return Err(wrong("has too few digits"));
    }
    let byte = |at: usize| digits[2 * at] << 4 | digits[2 * at + 1];
    let mut line = Zeroizing::new([0; LINE_BYTES]);
    for (at, out) in line.iter_mut().enumerate() {
        *out = byte(at);
    }
    if line_check(number, &line[..]) == [byte(LINE_BYTES), byte(LINE_BYTES + 1)] {
        Ok(line)
    } else {
        Err(wrong("has a wrong digit: its checksum does not fit"))
    }
}

fn payload(owner: &OwnerKey) -> Zeroizing<[u8; SHEET_BYTES]> {
    let mut out = Zeroizing::new([0; SHEET_BYTES]);
    out[..32].copy_from_slice(&owner.root.0.0);
    out[32..64].copy_from_slice(&owner.identity.seed.0);
    out[64..80].copy_from_slice(&owner.identity.repository.0);
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"lifeboat v1 recovery sheet\0").update(&out[..80]);
    out[80..].copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    out
}

fn line_check(number: usize, line: &[u8]) -> [u8; 2] {
    let number = u8::try_from(number).unwrap_or(u8::MAX);
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"lifeboat v1 recovery sheet line\0").update(&[number]).update(line);
    let hash = hasher.finalize();
    [hash.as_bytes()[0], hash.as_bytes()[1]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypt::random;

    fn owner() -> OwnerKey {
        let root = SignKey::random();
        let identity =
            IdentityKey { repository: RepositoryId(random()), root: root.verify_key(), seed: Secret::random() };
        OwnerKey { root, identity }
    }

    fn sheet(owner: &OwnerKey) -> Zeroizing<String> {
        print(owner, "sftp://backup@vault/lifeboat", "2026-11-21T03:00:00Z".parse().expect("a time"))
    }

    #[test]
    fn a_sheet_typed_in_by_hand_gives_the_key_back() {
        let owner = owner();
        let text = sheet(&owner);
        assert_eq!(parse(&text).expect("the whole sheet"), owner);
        let mut lines: Vec<&str> = text.lines().filter(|line| numbered(line).is_some()).collect();
        assert_eq!(lines.len(), LINES);
        lines.reverse();
        let mut careless = String::new();
        for line in &lines {
            let (number, digits) = numbered(line).expect("a numbered line");
            let digits = digits.to_uppercase().replace(['/', ' '], "").replace('0', "O").replace('1', "l");
            let _ = writeln!(careless, "{number}: {digits}");
        }
        assert_eq!(parse(&careless).expect("typed carelessly"), owner);
    }

    #[test]
    fn the_sheet_tells_store_repository_and_how_to_use_it() {
        let owner = owner();
        let text = sheet(&owner);
        for part in [
            &owner.identity.repository.to_string(),
            &owner.identity.root.to_string(),
            "sftp://backup@vault/lifeboat",
            "2026-11-21",
            "lifeboat recover sftp://backup@vault/lifeboat --identity FILE",
        ] {
            assert!(text.contains(part), "{part}");
        }
        assert!(text.lines().all(|line| line.len() <= 80), "it fits on paper");
    }

    #[test]
    fn a_wrong_swapped_doubled_or_missing_line_is_named() {
        let text = sheet(&owner());
        let lines: Vec<&str> = text.lines().filter(|line| numbered(line).is_some()).collect();
        let at = |lines: &[String]| match parse(&lines.join("\n")) {
            Err(KeyFileError::Line { line, why }) => (line, why),
            other => panic!("not refused by line: {other:?}"),
        };
        let own = || lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        for line in 0..LINES {
            for digit in [6, 12, 18, 23] {
                let mut typo = own();
                let right = typo[line].as_bytes()[digit];
                typo[line].replace_range(digit..=digit, if right == b'7' { "8" } else { "7" });
                assert_eq!(at(&typo), (line + 1, "has a wrong digit: its checksum does not fit"));
            }
            let mut missing = own();
            missing.remove(line);
            assert_eq!(at(&missing), (line + 1, "is missing"));
        }
        let mut swapped = own();
        swapped[2] = format!("  03:{}", &lines[3][5..]);
        assert_eq!(at(&swapped).0, 3);
        let mut twice = own();
        twice.push(lines[4].to_owned());
        assert_eq!(at(&twice), (5, "stands twice"));
        let mut short = own();
        short[6].truncate(20);
        assert_eq!(at(&short), (7, "has too few digits"));
    }

    #[test]
    fn a_text_without_numbered_lines_is_no_sheet() {
        assert!(matches!(parse("hello\nworld"), Err(KeyFileError::NotAKeyFile)));
    }
}
