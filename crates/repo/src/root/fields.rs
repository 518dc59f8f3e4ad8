//! The fields of the three parts of a root.

use lifeboat_model::{ChunkId, Digest, RecoveryPoint, SnapshotId, SourceName, StackName};

use super::{Countersign, RootBody, RootHeader, RootRefs};
use crate::cbor::{Build, Parse, required};
use crate::crypt::VerifyKey;
use crate::object::ObjectError;
use crate::small::RunId;

pub(super) fn write_header(header: &RootHeader) -> Vec<u8> {
    Build::record(|map| {
        map.field(0).bytes(header.stack_tag.0);
        map.field(1).bytes(header.source_tag.0);
        map.field(2).uint(header.sequence);
        map.some(3, header.previous.as_ref(), |out, hash| out.bytes(hash.bytes()));
        map.field(4).time(header.time);
        map.field(5).uint(header.roster_number);
        map.field(6).bytes(header.roster_hash.bytes());
        map.field(7).bytes(header.run.0);
        map.some(8, header.original.as_ref(), |out, id| out.bytes(id.bytes()));
        map.some(9, header.countersigned.as_ref(), |out, countersign| {
            out.array(3).time(countersign.time).bytes(countersign.signer.0).bytes(countersign.signature)
        });
        let systems = Some(&header.systems).filter(|systems| !systems.is_empty());
        map.some(10, systems, |out, systems| out.list(systems.iter(), |out, tag| out.bytes(tag.0)));
    })
}

pub(super) fn read_header(plain: &[u8]) -> Result<RootHeader, ObjectError> {
    let (mut stack_tag, mut source_tag, mut sequence, mut previous, mut time) = (None, None, None, None, None);
    let (mut roster_number, mut roster_hash, mut run, mut original, mut countersigned) = (None, None, None, None, None);
    let mut systems = Vec::new();
    Parse::whole(plain, |parse| {
        parse.map(|key, value| {
            match key {
                0 => stack_tag = Some(Digest(value.fixed()?)),
                1 => source_tag = Some(Digest(value.fixed()?)),
                2 => sequence = Some(value.u64()?),
                3 => previous = Some(value.fixed::<32>()?.into()),
                4 => time = Some(value.time()?),
                5 => roster_number = Some(value.u32()?),
                6 => roster_hash = Some(value.fixed::<32>()?.into()),
                7 => run = Some(RunId(value.fixed()?)),
                8 => original = Some(SnapshotId::from(value.fixed::<32>()?)),
                9 => countersigned = Some(read_countersign(value)?),
                10 => systems = value.list(|tag| Ok(Digest(tag.fixed()?)))?,
                _ => value.skip()?,
            }
            Ok(())
        })
    })?;
    Ok(RootHeader {
        stack_tag: required(stack_tag, "stack tag")?,
        source_tag: required(source_tag, "source tag")?,
        sequence: required(sequence, "sequence")?,
        previous,
        time: required(time, "time")?,
        roster_number: required(roster_number, "roster number")?,
        roster_hash: required(roster_hash, "roster hash")?,
        run: required(run, "run")?,
        original,
        countersigned,
        systems,
    })
}

fn read_countersign(parse: &mut Parse<'_>) -> Result<Countersign, ObjectError> {
    parse.tuple(3)?;
    Ok(Countersign { time: parse.time()?, signer: VerifyKey(parse.fixed()?), signature: parse.fixed()? })
}

pub(super) fn write_refs(refs: &RootRefs) -> Vec<u8> {
    Build::record(|map| {
        map.some(0, refs.top.as_ref(), |out, id| out.bytes(id.bytes()));
    })
}

pub(super) fn read_refs(plain: &[u8]) -> Result<RootRefs, ObjectError> {
    let mut top = None;
    Parse::whole(plain, |parse| {
        parse.map(|key, value| {
            match key {
                0 => top = Some(ChunkId::from(value.fixed::<32>()?)),
                _ => value.skip()?,
            }
            Ok(())
        })
    })?;
    Ok(RootRefs { top })
}

pub(super) fn write_body(body: &RootBody) -> Vec<u8> {
    Build::record(|map| {
        map.field(0).text(body.stack.as_str());
        map.field(1).text(body.source.as_str());
        map.field(2).text(&body.kind);
        map.field(3).map(|point| {
            point.field(0).time(body.recovery_point.time);
            point.field(1).text(&body.recovery_point.consistency);
            point.field(2).text_map(&body.recovery_point.facts, |out, text| out.text(text));
        });
        map.some(4, body.top.as_ref(), |out, id| out.bytes(id.bytes()));
        map.field(5).text_map(&body.stats, |out, count| out.uint(*count));
        map.field(6).text(&body.config);
        map.some(7, body.label.as_ref(), |out, label| out.text(label));
        map.field(8).list(body.problems.iter(), |out, (path, problem)| out.array(2).bytes(path).text(problem));
        map.some(9, body.stack_run.as_ref(), |out, run| out.bytes(run.0));
    })
}

pub(super) fn read_body(plain: &[u8]) -> Result<RootBody, ObjectError> {
    let (mut stack, mut source, mut kind, mut recovery_point, mut top) = (None, None, None, None, None);
    let (mut stats, mut config, mut label, mut problems, mut stack_run) = (None, None, None, None, None);
    Parse::whole(plain, |parse| {
        parse.map(|key, value| {
            match key {
                0 => stack = Some(StackName::new(value.text()?).map_err(ObjectError::malformed)?),
                1 => source = Some(SourceName::new(value.text()?).map_err(ObjectError::malformed)?),
                2 => kind = Some(value.text()?.to_owned()),
                3 => recovery_point = Some(read_recovery_point(value)?),
                4 => top = Some(ChunkId::from(value.fixed::<32>()?)),
                5 => stats = Some(value.text_map(Parse::u64)?),
                6 => config = Some(value.text()?.to_owned()),
                7 => label = Some(value.text()?.to_owned()),
                8 => problems = Some(value.list(read_problem)?),
                9 => stack_run = Some(RunId(value.fixed()?)),
                _ => value.skip()?,
            }
            Ok(())
        })
    })?;
    Ok(RootBody {
        stack: required(stack, "stack")?,
        source: required(source, "source")?,
        kind: required(kind, "kind of source")?,
        recovery_point: required(recovery_point, "recovery point")?,
        top,
        stats: required(stats, "statistics")?,
        config: required(config, "configuration")?,
        label,
        problems: required(problems, "problems")?,
        stack_run,
    })
}

fn read_problem(parse: &mut Parse<'_>) -> Result<(Vec<u8>, String), ObjectError> {
    parse.tuple(2)?;
    Ok((parse.bytes()?.to_vec(), parse.text()?.to_owned()))
}

fn read_recovery_point(parse: &mut Parse<'_>) -> Result<RecoveryPoint, ObjectError> {
    let (mut time, mut consistency, mut facts) = (None, None, None);
    parse.map(|key, value| {
        match key {
            0 => time = Some(value.time()?),
            1 => consistency = Some(value.text()?.to_owned()),
            2 => facts = Some(value.text_map(|text| Ok(text.text()?.to_owned()))?),
            _ => value.skip()?,
        }
        Ok(())
    })?;
    Ok(RecoveryPoint {
        time: required(time, "time of the recovery point")?,
        consistency: required(consistency, "consistency")?,
        facts: required(facts, "facts")?,
    })
}
