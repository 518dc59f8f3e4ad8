//! By what we prove who we are: private keys in files.
//!
//! Ed25519 and ECDSA are the library's. RSA is signed by `aws-lc-rs`: the library's own needs a crate
//! with a known timing leak (RUSTSEC-2023-0071).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PKCS1_SHA512};
use russh::keys::agent::AgentIdentity;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::{HashAlg, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::{SshError, SshErrorKind};

/// A private key that can sign, or one whose file is locked.
pub enum LoadedKey {
    /// Signed by the library.
    Plain(Arc<PrivateKey>),
    /// Signed by [`RsaSigner`].
    Rsa(PublicKey, RsaSigner),
    /// Encrypted, and there is no passphrase; an agent may hold it.
    Locked(PublicKey),
}

impl LoadedKey {
    /// Its public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        match self {
            Self::Plain(key) => key.public_key(),
            Self::Rsa(key, _) | Self::Locked(key) => key,
        }
    }
}

fn setup(what: String) -> SshError {
    SshError::new(SshErrorKind::Setup, what)
}

/// Reads a private key in OpenSSH's format.
///
/// # Errors
/// [`SshErrorKind::Setup`]: no such file, another format, a wrong passphrase.
pub fn load(path: &Path, passphrase_file: Option<&Path>) -> Result<LoadedKey, SshError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|error| setup(format!("the private key {shown} cannot be read: {error}")))?;
    refuse_wide_open(path)?;
    if !text.contains("BEGIN OPENSSH PRIVATE KEY") {
        let error = setup(format!("{shown} is not a private key in OpenSSH's format"));
        return Err(error.hinting(format!("`ssh-keygen -p -f {shown}` writes it anew in that format")));
    }
    let key = PrivateKey::from_openssh(text.trim().as_bytes())
        .map_err(|error| setup(format!("the private key {shown} is damaged: {error}")))?;
    let key = match (key.is_encrypted(), passphrase_file) {
        (false, _) => key,
        (true, None) => return Ok(LoadedKey::Locked(key.public_key().clone())),
        (true, Some(file)) => {
            let passphrase = std::fs::read_to_string(file).map(Zeroizing::new);
            let passphrase = passphrase
                .map_err(|error| setup(format!("the passphrase in {} cannot be read: {error}", file.display())))?;
            key.decrypt(passphrase.trim_end_matches(['\r', '\n'])).map_err(|_| {
                setup(format!("the passphrase in {} does not open the private key {shown}", file.display()))
            })?
        }
    };
    if let KeypairData::Rsa(_) = key.key_data() {
        let signer = RsaSigner::new(&key).map_err(|why| setup(format!("the RSA key {shown} is of no use: {why}")))?;
        return Ok(LoadedKey::Rsa(key.public_key().clone(), signer));
    }
    Ok(LoadedKey::Plain(Arc::new(key)))
}

/// A key that others may read is not used, as OpenSSH does it.
fn refuse_wide_open(path: &Path) -> Result<(), SshError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode());
    match mode {
        Ok(mode) if mode & 0o077 != 0 => {
            let error =
                setup(format!("other users may read the private key {} (mode {:o})", path.display(), mode & 0o777));
            Err(error.hinting(format!("chmod 600 {}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Keys that are tried where nobody names one.
#[must_use]
pub fn usual_files(home: &Path) -> Vec<PathBuf> {
    ["id_ed25519", "id_ecdsa", "id_rsa"]
        .iter()
        .map(|name| home.join(".ssh").join(name))
        .filter(|p| p.exists())
        .collect()
}

/// Signs with an RSA key.
pub struct RsaSigner(RsaKeyPair);

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SignError(String);

impl From<russh::SendError> for SignError {
    fn from(_: russh::SendError) -> Self {
        Self("the connection was closed".to_owned())
    }
}

impl RsaSigner {
    #[expect(clippy::many_single_char_names, reason = "the letters are those of the standard")]
    fn new(key: &PrivateKey) -> Result<Self, String> {
        let KeypairData::Rsa(pair) = key.key_data() else { return Err("it is not an RSA key".to_owned()) };
        let number = |part: &russh::keys::ssh_key::Mpint| {
            part.as_positive_bytes()
                .map(|bytes| Zeroizing::new(bytes.to_vec()))
                .ok_or("a negative number in it".to_owned())
        };
        let (n, e) = (number(pair.public().n())?, number(pair.public().e())?);
        let private = pair.private();
        let (d, p, q, inverse) =
            (number(private.d())?, number(private.p())?, number(private.q())?, number(private.iqmp())?);
        let components = KeyPairComponents {
            public_key: PublicKeyComponents { n: n.to_vec(), e: e.to_vec() },
            dP: remainder(&d, &less_one(&p)).to_vec(),
            dQ: remainder(&d, &less_one(&q)).to_vec(),
            d: d.to_vec(),
            p: p.to_vec(),
            q: q.to_vec(),
            qInv: inverse.to_vec(),
        };
        RsaKeyPair::from_components(&components).map(Self).map_err(|error| error.to_string())
    }

    fn sign(&self, hash: Option<HashAlg>, mut message: Vec<u8>) -> Result<Vec<u8>, SignError> {
        let (name, scheme) = match hash {
            Some(HashAlg::Sha256) => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
            _ => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
        };
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0
            .sign(scheme, &SystemRandom::new(), &message, &mut signature)
            .map_err(|_| SignError("the RSA key does not sign".to_owned()))?;
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
        message.extend(length(8 + name.len() + signature.len()));
        for part in [name.as_bytes(), &signature] {
            message.extend(length(part.len()));
            message.extend(part);
        }
        Ok(message)
    }
}

impl russh::Signer for RsaSigner {
    type Error = SignError;

    async fn auth_sign(
        &mut self,
        _: &AgentIdentity,
        hash: Option<HashAlg>,
        message: Vec<u8>,
    ) -> Result<Vec<u8>, SignError> {
        self.sign(hash, message)
    }
}

/// An odd number, less one.
fn less_one(number: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut number = Zeroizing::new(number.to_vec());
    if let Some(last) = number.last_mut() {
        *last &= 0xfe;
    }
    number
}

/// What is left when `number` is divided by `by`, both big-endian: bit after bit, done once for each key.
fn remainder(number: &[u8], by: &[u8]) -> Zeroizing<Vec<u8>> {
    // One byte more than the divisor, so that the doubled rest always fits.
    let by: Zeroizing<Vec<u8>> = Zeroizing::new([&[0], by].concat());
    let mut rest = Zeroizing::new(vec![0u8; by.len()]);
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)) {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            (carry, *byte) = (*byte >> 7, *byte << 1 | carry);
        }
        if *rest >= *by {
            let mut borrow = false;
            for (byte, less) in rest.iter_mut().zip(by.iter()).rev() {
                let (once, under) = byte.overflowing_sub(*less);
                let (twice, again) = once.overflowing_sub(u8::from(borrow));
                (*byte, borrow) = (twice, under || again);
            }
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Command;
    use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey};
    use lifeboat_model::flow::Cancel;
    use proptest::prelude::*;

    async fn generate(dir: &Path, name: &str, args: &[&str]) -> PathBuf {
        let path = dir.join(name);
        let command = Command::new("ssh-keygen").args(["-q", "-f"]).arg(&path).args(args);
        command.run(1 << 16, &Cancel::default()).await.expect("ssh-keygen makes keys");
        path
    }

    #[tokio::test]
    async fn keys_of_every_kind_are_read_and_locked_ones_open_by_their_passphrase() {
        let dir = tempfile::tempdir().expect("a directory");
        let right = dir.path().join("right");
        std::fs::File::create(&right)
            .and_then(|mut f| std::io::Write::write_all(&mut f, b"open sesame\n"))
            .expect("written");
        let wrong = dir.path().join("wrong");
        std::fs::File::create(&wrong).expect("created");
        for kind in ["ed25519", "ecdsa", "rsa"] {
            let plain = generate(dir.path(), kind, &["-t", kind, "-N", ""]).await;
            assert!(!matches!(load(&plain, None).expect("read"), LoadedKey::Locked(_)), "{kind}");
            let locked = generate(dir.path(), &format!("{kind}-locked"), &["-t", kind, "-N", "open sesame"]).await;
            assert!(matches!(load(&locked, None).expect("read"), LoadedKey::Locked(_)), "{kind}");
            assert!(!matches!(load(&locked, Some(&right)).expect("opened"), LoadedKey::Locked(_)), "{kind}");
            let error = load(&locked, Some(&wrong)).err().expect("the wrong passphrase");
            assert!(error.to_string().contains("passphrase"), "{error}");
        }
    }

    #[tokio::test]
    async fn what_an_rsa_key_signs_its_public_half_accepts() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = generate(dir.path(), "rsa", &["-t", "rsa", "-b", "2048", "-N", ""]).await;
        let LoadedKey::Rsa(_, key) = load(&path, None).expect("read") else { panic!("an RSA key") };
        let signature = key.sign(Some(HashAlg::Sha512), b"message".to_vec()).expect("signed");
        let public = aws_lc_rs::signature::KeyPair::public_key(&key.0).as_ref().to_vec();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA512, public);
        public.verify(b"message", &signature[signature.len() - 256..]).expect("the signature stands at the end");
        assert_eq!(&signature[7 + 4 + 4..][..12], b"rsa-sha2-512");
    }

    #[tokio::test]
    async fn files_that_others_may_read_and_other_formats_are_refused_with_the_command_that_helps() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = generate(dir.path(), "wide", &["-t", "ed25519", "-N", ""]).await;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
        assert!(load(&path, None).err().expect("refused").hint().expect("a hint").starts_with("chmod 600"));
        let other = generate(dir.path(), "pem", &["-t", "rsa", "-m", "PEM", "-N", ""]).await;
        assert!(load(&other, None).err().expect("refused").hint().expect("a hint").contains("ssh-keygen -p"));
    }

    proptest! {
        #[test]
        fn remainders_are_those_of_arithmetic(number: u128, by in 1u64..) {
            let rest = remainder(&number.to_be_bytes(), &by.to_be_bytes());
            let expected = number % u128::from(by);
            prop_assert_eq!(&rest[..], &[&[0][..], &u64::try_from(expected).expect("below").to_be_bytes()].concat()[..]);
        }
    }
}
