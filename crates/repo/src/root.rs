//! Root objects: the commit point of a snapshot. `docs/format.md`, section "Snapshot root".
//!
//! A root has three parts for three readers: the header for the whole domain, the references for
//! maintainers, the body for identities.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use lifeboat_model::{ChunkId, Digest, ObjectHash, RecoveryPoint, SnapshotId, SourceName, StackName};

use crate::access::Access;
use crate::cbor::Build;
use crate::crypt::{Aead, Secret, SignKey, VerifyKey};
use crate::object::{
    DomainId, ENVELOPE_BYTES, Envelope, HEADER_BYTES, IndexKey, ObjectError, ObjectType, RepositoryId, header,
    sealed_domain, sign, verify,
};
use crate::roster::RosterWriter;
use crate::sealed::{Role, check_hash, may_sign, role_of};
use crate::small::RunId;

mod fields;
pub mod log;

/// Part A, for everybody who has the domain's index key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootHeader {
    /// Names the stack to who can guess it.
    pub stack_tag: Digest,
    /// Names the source to who can guess it.
    pub source_tag: Digest,
    /// Counts up from 1 in the chain of this writer and source.
    pub sequence: u64,
    /// The root before in the chain.
    pub previous: Option<ObjectHash>,
    /// When the root was made, by the writer's clock.
    pub time: Timestamp,
    /// The newest roster that the writer knew.
    pub roster_number: u32,
    /// Its hash.
    pub roster_hash: ObjectHash,
    /// The run.
    pub run: RunId,
    /// The snapshot that this one is a copy of.
    pub original: Option<SnapshotId>,
    /// An identity's word for an earlier time.
    pub countersigned: Option<Countersign>,
    /// Tags of what the source tells of its system: writers know by them whether they still write the
    /// history of the same one.
    pub systems: Vec<Digest>,
}

impl RootHeader {
    /// The snapshot that this one is a copy of, where an identity vouches for it: a writer alone could
    /// claim any id, and so pass its own snapshot off as another.
    #[must_use]
    pub fn copied_from(&self) -> Option<SnapshotId> {
        self.countersigned.as_ref().and(self.original)
    }
}

/// An identity vouches that the content of a copied or imported snapshot is as old as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Countersign {
    /// When the content was captured.
    pub time: Timestamp,
    /// Who vouches.
    pub signer: VerifyKey,
    /// Over repository, source, run, its secrets, original and time.
    pub signature: [u8; 64],
}

impl Countersign {
    /// Vouches for the root that will carry `header`, and whose other parts are sealed under the secrets in
    /// these envelopes: of references and of content.
    #[must_use]
    pub fn make(
        repository: RepositoryId,
        header: &RootHeader,
        envelopes: [&Envelope; 2],
        time: Timestamp,
        signer: &SignKey,
    ) -> Self {
        let message = Self::message(repository, header, envelopes, time);
        Self { time, signer: signer.verify_key(), signature: signer.sign(&message) }
    }

    /// Nobody but who made the run knows its secrets, so that no other root can be given the same word.
    fn message(repository: RepositoryId, header: &RootHeader, envelopes: [&Envelope; 2], time: Timestamp) -> Vec<u8> {
        let [references, content] = envelopes.map(Envelope::commitment);
        let mut when = Build::new();
        when.time(time);
        let original = header.original.map_or([0; 32], |id| *id.bytes());
        [
            &b"lifeboat v1 countersignature\0"[..],
            &repository.0,
            &header.source_tag.0,
            &header.run.0,
            &references.0,
            &content.0,
            &original,
            &when.finish(),
        ]
        .concat()
    }
}

/// Part B, for maintainers and identities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootRefs {
    /// The reference page of the manifest's top page; none for an empty snapshot.
    pub top: Option<ChunkId>,
}

/// Part C, for identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootBody {
    /// The stack.
    pub stack: StackName,
    /// The source.
    pub source: SourceName,
    /// What kind of source: `files`, `postgres`.
    pub kind: String,
    /// The view that the snapshot holds.
    pub recovery_point: RecoveryPoint,
    /// The manifest's top page; none for an empty snapshot.
    pub top: Option<ChunkId>,
    /// Counts by name: `entries`, `bytes`, `new_bytes`. Readers keep and show names that they do
    /// not know.
    pub stats: BTreeMap<String, u64>,
    /// The configuration without its secrets, as YAML.
    pub config: String,
    /// What the person called it.
    pub label: Option<String>,
    /// Path and problem of entries that are left out or not sound.
    pub problems: Vec<(Vec<u8>, String)>,
    /// Joins the snapshots that one command made of a stack.
    pub stack_run: Option<RunId>,
}

/// A run's secret with its sealed form.
#[derive(Clone, Debug)]
pub struct RunSecret {
    /// The secret.
    pub secret: Secret,
    /// The same, sealed to its reader.
    pub envelope: Envelope,
}

/// The keys that a root is made with.
#[derive(Clone, Copy, Debug)]
pub struct RootKeys<'a> {
    /// The domain.
    pub index: &'a IndexKey,
    /// S, the run's secret of content, sealed to the epoch.
    pub content: &'a RunSecret,
    /// R, the run's secret of references, sealed to the maintenance key.
    pub references: &'a RunSecret,
    /// The writer.
    pub sign: &'a SignKey,
}

/// A root object's id and bytes, ready to be put.
///
/// # Panics
/// Where a part would be longer than 4 GiB, which no memory budget allows.
#[must_use]
pub fn encode(head: &RootHeader, refs: &RootRefs, body: &RootBody, keys: &RootKeys<'_>) -> (SnapshotId, Bytes) {
    let (hash, bytes) = seal_parts(ObjectType::SnapshotRoot, head, refs, &fields::write_body(body), keys);
    (SnapshotId(hash.0), bytes)
}

/// A root of any type, by the plain bytes of its body.
fn seal_parts(
    kind: ObjectType,
    head: &RootHeader,
    refs: &RootRefs,
    body: &[u8],
    keys: &RootKeys<'_>,
) -> (ObjectHash, Bytes) {
    let a = keys.index.seal(kind, &fields::write_header(head));
    let aad = part_aad(kind, &a);
    let part = |run: &RunSecret, name: &str, plain: &[u8]| {
        let sealed = part_key(&run.secret, name, head.run).seal(0, &aad, plain);
        [run.envelope.bytes(), &sealed[..]].concat()
    };
    let b = part(keys.references, "B", &fields::write_refs(refs));
    let c = part(keys.content, "C", body);
    let mut out = Vec::with_capacity(a.len() + b.len() + c.len() + 12);
    for bytes in [a, b, c] {
        out.extend_from_slice(&u32::try_from(bytes.len()).expect("a root stays far below 4 GiB").to_le_bytes());
        out.extend_from_slice(&bytes);
    }
    let object = sign(keys.index.repository, kind, &out, keys.sign);
    (ObjectHash(Digest::of(&object)), object)
}

fn part_key(secret: &Secret, name: &str, run: RunId) -> Aead {
    Aead::new(&secret.derive("lifeboat v1 root part", &[name.as_bytes(), &run.0]))
}

fn part_aad(kind: ObjectType, a: &[u8]) -> [u8; HEADER_BYTES + 32] {
    let mut aad = [0; HEADER_BYTES + 32];
    aad[..HEADER_BYTES].copy_from_slice(&header(kind));
    aad[HEADER_BYTES..].copy_from_slice(blake3::hash(a).as_bytes());
    aad
}

/// A root object, checked and opened as far as our keys reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The hash of the object.
    pub id: SnapshotId,
    /// Who signed it.
    pub writer: VerifyKey,
    /// The writer's domain.
    pub domain: DomainId,
    /// False where the writer was removed since: the root counts only if it is one of those
    /// known then, or before them.
    pub writer_stands: bool,
    /// Part A.
    pub header: RootHeader,
    /// Part B, where we have the maintenance key of its generation.
    pub refs: Option<RootRefs>,
    /// Part C, where we have the epoch key of its generation.
    pub body: Option<RootBody>,
}

/// Checks hash, signature, the writer's right to the source, and opens what our keys open.
///
/// # Errors
/// [`ObjectError::ForeignDomain`] where we lack the domain's key; [`ObjectError::Stranger`] and
/// [`ObjectError::NotAllowed`] for forged roots; any other means damage.
pub fn decode(access: &Access, id: SnapshotId, bytes: &[u8]) -> Result<Root, ObjectError> {
    let parts = open_parts(access, ObjectType::SnapshotRoot, ObjectHash(id.0), bytes)?;
    let refs = parts.refs.as_deref().map(fields::read_refs).transpose()?;
    let body = parts.body.as_deref().map(fields::read_body).transpose()?;
    if let Some(body) = &body {
        parts.names(access, &body.stack, &body.source)?;
    }
    let Parts { writer, domain, role, header, .. } = parts;
    Ok(Root { id, writer, domain, writer_stands: role == Role::Writer, header, refs, body })
}

/// The parts of a root of any type, opened as far as our keys reach.
struct Parts {
    writer: VerifyKey,
    domain: DomainId,
    role: Role,
    header: RootHeader,
    /// Plain bytes of part B.
    refs: Option<Vec<u8>>,
    /// Plain bytes of part C.
    body: Option<Vec<u8>>,
}

impl Parts {
    /// Whether the header's tags are those of the source that the body names.
    fn names(&self, access: &Access, stack: &StackName, source: &SourceName) -> Result<(), ObjectError> {
        let keys = access.domains.get(&self.domain).ok_or(ObjectError::ForeignDomain)?;
        if keys.stack_tag(stack) == self.header.stack_tag && keys.source_tag(stack, source) == self.header.source_tag {
            Ok(())
        } else {
            Err(ObjectError::malformed("its header and its body name different sources"))
        }
    }
}

fn open_parts(access: &Access, kind: ObjectType, hash: ObjectHash, bytes: &[u8]) -> Result<Parts, ObjectError> {
    check_hash(hash, bytes)?;
    let (writer, body) = verify(access.repository, kind, bytes)?;
    let [a, b, c] = split_parts(body)?;
    let domain = sealed_domain(a)?;
    let role = role_of(&access.roster, &writer, domain)
        .filter(|role| may_sign(*role, kind))
        .ok_or(ObjectError::Stranger(writer))?;
    let keys = access.domains.get(&domain).ok_or(ObjectError::ForeignDomain)?;
    let head = fields::read_header(&keys.index.open(kind, a)?)?;
    let ((references, b), (content, c)) = (split_envelope(b)?, split_envelope(c)?);
    check_rights(access, &writer, role, domain, &head)?;
    check_countersign(access, &head, [&references, &content])?;
    let aad = part_aad(kind, a);
    let part = |envelope: &Envelope, sealed: &[u8], name| {
        let secret = access.secret_of(envelope)?;
        secret.map(|secret| part_key(&secret, name, head.run).open(0, &aad, sealed)).transpose()
    };
    let (refs, body) = (part(&references, b, "B")?, part(&content, c, "C")?);
    Ok(Parts { writer, domain, role, header: head, refs, body })
}

fn split_parts(mut body: &[u8]) -> Result<[&[u8]; 3], ObjectError> {
    let mut parts = [&body[..0]; 3];
    for part in &mut parts {
        let cut = || ObjectError::malformed("a root whose parts are cut off");
        let (length, rest) = body.split_first_chunk::<4>().ok_or_else(cut)?;
        (*part, body) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(cut)?;
    }
    if body.is_empty() { Ok(parts) } else { Err(ObjectError::malformed("bytes behind the parts of a root")) }
}

/// The envelope of part B or C, and what is sealed under its secret.
fn split_envelope(part: &[u8]) -> Result<(Envelope, &[u8]), ObjectError> {
    let (envelope, sealed) = part
        .split_at_checked(ENVELOPE_BYTES)
        .ok_or_else(|| ObjectError::malformed("a part of a root without its envelope"))?;
    Ok((Envelope::from_bytes(envelope)?, sealed))
}

/// The writer may write this source.
fn check_rights(
    access: &Access,
    writer: &VerifyKey,
    role: Role,
    domain: DomainId,
    head: &RootHeader,
) -> Result<(), ObjectError> {
    let allows = |known: &RosterWriter| {
        known.verify == *writer
            && known.domain == domain
            && (known.allowed.contains(&head.stack_tag) || known.allowed.contains(&head.source_tag))
    };
    if role == Role::Writer && !access.roster.writers.iter().any(allows) {
        return Err(ObjectError::NotAllowed(*writer));
    }
    Ok(())
}

/// Who countersigned is an identity, and signed for this root.
fn check_countersign(access: &Access, head: &RootHeader, envelopes: [&Envelope; 2]) -> Result<(), ObjectError> {
    let Some(countersign) = &head.countersigned else { return Ok(()) };
    let roster = &access.roster;
    let mut known = roster.identities.iter().map(|key| key.verify).chain(roster.retired.iter().map(|key| key.verify));
    if !known.any(|verify| verify == countersign.signer) {
        return Err(ObjectError::Stranger(countersign.signer));
    }
    let message = Countersign::message(access.repository, head, envelopes, countersign.time);
    Ok(countersign.signer.verify(&message, &countersign.signature)?)
}

#[cfg(test)]
pub(crate) mod tests;
