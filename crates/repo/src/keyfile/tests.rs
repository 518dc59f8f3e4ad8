//! Key files: what is written comes back, and nothing else is taken.

use super::*;
use crate::crypt::random;
use crate::error::RepoErrorKind;

fn all() -> Vec<KeyFile> {
    let (repository, root) = (RepositoryId(random()), SignKey::random());
    let verify = root.verify_key();
    let identity = IdentityKey { repository, root: verify, seed: Secret::random() };
    let (sign, seal) = (SignKey::random(), SealSecret::random());
    vec![
        KeyFile::Writer(WriterKey {
            repository,
            root: verify,
            sign: sign.clone(),
            domain: DomainId(random()),
            secret: Secret::random(),
        }),
        KeyFile::Pending(PendingKey { repository, root: verify, sign: sign.clone(), seal: seal.clone() }),
        KeyFile::Maintainer(MaintainerKey { repository, root: verify, sign, seal }),
        KeyFile::Identity(identity.clone()),
        KeyFile::Owner(OwnerKey { root, identity }),
    ]
}

fn silent() -> impl FnMut() -> Option<Passphrase> {
    || None
}

fn typed(text: &'static str) -> impl FnMut() -> Option<Passphrase> {
    move || Some(Passphrase::new(text))
}

#[test]
fn every_role_comes_back_from_its_file_and_only_its_owner_can_read_it() {
    let dir = tempfile::tempdir().expect("a directory");
    for key in all() {
        let path = dir.path().join(key.role());
        key.write_new(&path, None).expect("written");
        assert_eq!(KeyFile::read(&path, &mut silent()).expect("read"), key);
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", key.role());
    }
}

#[test]
fn a_key_file_is_never_overwritten() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("writer.key");
    let keys = all();
    keys[0].write_new(&path, None).expect("written");
    let error = keys[2].write_new(&path, None).expect_err("refused");
    assert!(matches!(error, RepoError::KeyFile { source: KeyFileError::Exists, .. }));
    assert_eq!(error.kind(), RepoErrorKind::Usage);
    assert_eq!(KeyFile::read(&path, &mut silent()).expect("read"), keys[0]);
}

#[test]
fn a_file_that_every_user_can_read_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("writer.key");
    all()[0].write_new(&path, None).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("mode set");
    let error = KeyFile::read(&path, &mut silent()).expect_err("refused");
    assert!(matches!(error, RepoError::KeyFile { source: KeyFileError::TooOpen { mode: 0o644 }, .. }));
    assert!(error.hint().expect("a hint").contains("chmod 600"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("mode set");
    KeyFile::read(&path, &mut silent()).expect("a group may be meant to read it");
}

#[test]
fn a_passphrase_protects_identity_and_owner_and_nothing_else() {
    let passphrase = Passphrase::new("correct horse");
    for key in all() {
        let Ok(text) = key.encode(Some(&passphrase)) else {
            assert!(!matches!(key, KeyFile::Identity(_) | KeyFile::Owner(_)), "{}", key.role());
            continue;
        };
        let clear = key.encode(None).expect("text");
        let identity = key.clone().into_identity().expect("an identity");
        let seed = hex::encode(identity.seed.0);
        assert!(clear.contains(&seed) && !text.contains(&seed));
        assert_eq!(KeyFile::decode(&text, &mut typed("correct horse")).expect("opens"), key);
        let decode = |mut ask: Box<dyn FnMut() -> Option<Passphrase>>| KeyFile::decode(&text, &mut ask);
        assert!(matches!(decode(Box::new(typed("wrong horse"))), Err(KeyFileError::WrongPassphrase)));
        assert!(matches!(decode(Box::new(silent())), Err(KeyFileError::PassphraseNeeded)));
    }
}

#[test]
fn one_wrong_character_anywhere_is_found_before_the_store_is_asked() {
    for key in all() {
        let text = key.encode(None).expect("text");
        for at in 0..text.len() {
            let mut typo = text.to_string().into_bytes();
            typo[at] = if typo[at] == b'7' { b'3' } else { b'7' };
            let typo = String::from_utf8(typo).expect("text");
            let read = KeyFile::decode(&typo, &mut silent());
            let same = read.as_ref().is_ok_and(|read| *read == key);
            let space = text.as_bytes()[at].is_ascii_whitespace();
            assert!(read.is_err() || same && space, "{} at {at}", key.role());
            let cut = KeyFile::decode(&text[..at], &mut silent());
            assert!(cut.is_err() || text[at..].trim().is_empty(), "{} cut at {at}", key.role());
        }
    }
}

#[test]
fn no_secret_shows_in_what_programs_print() {
    for key in all() {
        let secrets: Vec<String> = match &key {
            KeyFile::Writer(key) => vec![hex::encode(key.sign.0.0), hex::encode(key.secret.0)],
            KeyFile::Pending(key) => vec![hex::encode(key.sign.0.0), hex::encode(key.seal.0.0)],
            KeyFile::Maintainer(key) => vec![hex::encode(key.sign.0.0), hex::encode(key.seal.0.0)],
            KeyFile::Identity(key) => vec![hex::encode(key.seed.0)],
            KeyFile::Owner(key) => vec![hex::encode(key.root.0.0), hex::encode(key.identity.seed.0)],
        };
        let text = key.encode(None).expect("text");
        assert!(secrets.iter().all(|secret| text.contains(secret.as_str())), "the file has them");
        let shown = format!("{key:?} {:?}", key.clone().into_writer());
        assert!(secrets.iter().all(|secret| !shown.contains(&secret[..16])), "{}", key.role());
    }
}

#[test]
fn a_key_of_another_role_is_named() {
    let error = all().remove(1).into_writer().expect_err("refused");
    assert_eq!(error.to_string(), "it is a key of the role pending-writer, not writer");
    assert!(error.hint().expect("a hint").contains("lifeboat key add"));
}

#[test]
fn a_file_that_asks_for_endless_work_is_refused() {
    let key = all().remove(3);
    let text = key.encode(Some(&Passphrase::new("p"))).expect("text");
    let mut costly = KeyText::decode(&text).expect("read");
    costly.put("memory_kib", "4000000000");
    let refused = KeyFile::decode(&costly.encode(), &mut typed("p"));
    assert!(matches!(refused, Err(KeyFileError::Field { name: "kdf", .. })));
}
