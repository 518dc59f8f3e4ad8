//! A tree like that of a large program in C: many small files of words that repeat, a few long tables.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::{Numbers, vocabulary};

const FILES_PER_DIR: u64 = 16;

/// Writes `files` files below `root`. Most have 1 to 24 KiB, one in fifty is a header of register
/// numbers with up to 400 KiB; the mean is about 17 KiB, as in the sources of Linux.
///
/// # Errors
/// What the file system says.
pub fn write_tree(root: &Path, files: u64, seed: u64) -> io::Result<u64> {
    let mut numbers = Numbers::new(seed);
    let words = vocabulary(&mut numbers);
    let mut written = 0;
    for number in 0..files {
        let folder = number / FILES_PER_DIR;
        let dir = root.join(format!("part-{:03}", folder / 64)).join(format!("unit-{:02}", folder % 64));
        if number % FILES_PER_DIR == 0 {
            fs::create_dir_all(&dir)?;
        }
        let table = numbers.below(50) == 0;
        let name = numbers.pick(&words);
        let path = dir.join(format!("{name}_{number}.{}", if table { "h" } else { "c" }));
        let bytes = if table { 64 << 10 | numbers.below(336 << 10) } else { 1024 + numbers.below(23 << 10) };
        let mut out = BufWriter::new(File::create(path)?);
        let mut text = Vec::new();
        writeln!(text, "/* {name}: part {folder} of the bench's program. */\n#include <{}.h>\n", numbers.pick(&words))?;
        while (text.len() as u64) < bytes {
            if table { define(&mut text, &words, &mut numbers)? } else { function(&mut text, &words, &mut numbers)? }
        }
        out.write_all(&text)?;
        out.flush()?;
        written += text.len() as u64;
    }
    Ok(written)
}

fn define(out: &mut Vec<u8>, words: &[String], numbers: &mut Numbers) -> io::Result<()> {
    let name = format!("{}_{}", numbers.pick(words), numbers.pick(words)).to_uppercase();
    writeln!(out, "#define {name:<48} {:#010x}", numbers.below(1 << 32))
}

fn function(out: &mut Vec<u8>, words: &[String], numbers: &mut Numbers) -> io::Result<()> {
    let unit = numbers.pick(words);
    writeln!(
        out,
        "static int {unit}_{}(struct {unit} *self, unsigned int {})\n{{",
        numbers.pick(words),
        numbers.pick(words)
    )?;
    for _ in 0..3 + numbers.below(12) {
        let (a, b) = (numbers.pick(words), numbers.pick(words));
        match numbers.below(5) {
            0 => writeln!(out, "\tif (!self->{a})\n\t\treturn -EINVAL;")?,
            1 => writeln!(out, "\tself->{a} = {b}({a}, {});", numbers.below(4096))?,
            2 => writeln!(out, "\tfor (i = 0; i < self->{a}; i++)\n\t\t{b}(self, i);")?,
            3 => writeln!(out, "\t/* {a} {b} {} before it is used */", numbers.pick(words))?,
            _ => writeln!(out, "\tpr_debug(\"{a}: %u\\n\", self->{b});")?,
        }
    }
    writeln!(out, "\treturn 0;\n}}\n")
}
