//! Child processes: the only place that starts any.
//!
//! What a child prints is data only if the child ends well. So the reader of its standard output
//! fails at the end of the stream when the exit status is not zero, and nobody can take half a
//! dump for a whole one. Secrets go in by environment or file, never by argument: arguments are
//! visible to every user of the machine.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use lifeboat_model::flow::{BodyError, BodyRead, Cancel, PIECE_BYTES_MAX, Piece};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdout};
use tokio::task::JoinHandle;

/// The last bytes of standard error that are kept for the error message.
const STDERR_TAIL_BYTES: usize = 8 << 10;
/// The most that one read of a child's output takes: what a pipe holds.
const CHUNK_BYTES: usize = 64 << 10;
/// What the children find programs by; the caller's own search path is not handed on.
const CHILD_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How often a waiting call looks whether someone asked to stop.
const CANCEL_POLL: Duration = Duration::from_millis(100);

/// A program with its arguments, not started yet.
///
/// The child's environment holds `PATH`, `LC_ALL=C` and what [`Command::env`] adds, nothing else.
#[derive(Clone)]
pub struct Command {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
    stdin: Option<Bytes>,
}

impl Command {
    /// The program at this path, or of this name in the system's own directories.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), env: Vec::new(), dir: None, stdin: None }
    }

    /// Adds an argument. Never a secret.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments. Never secrets.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the child's environment; secrets may go here.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The directory that the child starts in.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Bytes for the child's standard input, which is empty otherwise.
    #[must_use]
    pub fn stdin(mut self, input: Bytes) -> Self {
        self.stdin = Some(input);
        self
    }

    /// Runs the child to its end and returns what it printed, at most `stdout_bytes_max`.
    ///
    /// # Errors
    /// [`ProcessError`] where it could not be started, ended with a status other than zero, printed
    /// more than allowed, or was stopped through `cancel`.
    pub async fn run(self, stdout_bytes_max: usize, cancel: &Cancel) -> Result<Bytes, ProcessError> {
        let mut running = self.start()?;
        let mut out = BytesMut::new();
        loop {
            let chunk = tokio::select! {
                chunk = running.chunk() => chunk?,
                () = cancelled(cancel) => return Err(ProcessError::Cancelled { program: running.program.clone() }),
            };
            let Some(chunk) = chunk else { return Ok(out.freeze()) };
            if out.len() + chunk.len() > stdout_bytes_max {
                return Err(ProcessError::TooMuchOutput { program: running.program.clone(), stdout_bytes_max });
            }
            out.extend_from_slice(&chunk);
        }
    }

    /// Starts the child in a process group of its own; its output is read from [`Running`].
    ///
    /// # Errors
    /// [`ProcessError::Start`] where the program is missing or may not be run.
    pub fn start(self) -> Result<Running, ProcessError> {
        let program = self.program.to_string_lossy().into_owned();
        #[expect(clippy::disallowed_methods, reason = "this is the one place that starts children")]
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", CHILD_PATH)
            .env("LC_ALL", "C")
            .envs(self.env)
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        let mut child = command.spawn().map_err(|source| ProcessError::Start { program: program.clone(), source })?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), self.stdin) {
            // A child that does not want its input tells by its exit status.
            tokio::spawn(async move { pipe.write_all(&input).await.ok() });
        }
        let stdout = child.stdout.take();
        let stderr = child.stderr.take().map(|pipe| tokio::spawn(tail(pipe)));
        Ok(Running { program, child, group, stdout, stderr, buffer: BytesMut::new() })
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command").field("program", &self.program).field("args", &self.args).finish_non_exhaustive()
    }
}

/// A started child. Dropped before its end, it is killed together with its own children.
pub struct Running {
    program: String,
    child: Child,
    group: Option<rustix::process::Pid>,
    stdout: Option<ChildStdout>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    buffer: BytesMut,
}

impl Running {
    /// The next bytes of standard output; `None` only after the child ended with status zero.
    ///
    /// # Errors
    /// [`ProcessError::Exit`] at the end of the output where the status is not zero, with the last
    /// lines of standard error; [`ProcessError::Read`] where the pipe broke.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ProcessError> {
        if let Some(stdout) = &mut self.stdout {
            self.buffer.reserve(CHUNK_BYTES);
            let read = stdout.read_buf(&mut (&mut self.buffer).limit(CHUNK_BYTES)).await;
            let read = read.map_err(|source| ProcessError::Read { program: self.program.clone(), source })?;
            if read > 0 {
                return Ok(Some(self.buffer.split().freeze()));
            }
            self.stdout = None;
        }
        self.wait().await.map(|()| None)
    }

    /// Waits for the end without reading the output.
    ///
    /// # Errors
    /// As [`Running::chunk`].
    pub async fn wait(&mut self) -> Result<(), ProcessError> {
        self.stdout = None;
        let status = self.child.wait().await;
        let status = status.map_err(|source| ProcessError::Read { program: self.program.clone(), source })?;
        self.group = None;
        let stderr = match self.stderr.take() {
            Some(task) => task.await.unwrap_or_default(),
            None => Vec::new(),
        };
        if status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
        Err(ProcessError::Exit { program: self.program.clone(), status, stderr })
    }

    /// Ends the child and its own children at once and waits until it is gone.
    pub async fn kill(mut self) {
        self.kill_group();
        self.child.wait().await.ok();
        self.group = None;
    }

    fn kill_group(&self) {
        if let Some(group) = self.group {
            // Fails only where the whole group is gone already.
            rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The runtime reaps the child after the drop.
        self.kill_group();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("program", &self.program).field("pid", &self.child.id()).finish_non_exhaustive()
    }
}

#[async_trait]
impl BodyRead for Running {
    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        const { assert!(CHUNK_BYTES <= PIECE_BYTES_MAX, "a chunk of the pipe fits into a piece") };
        let chunk = self.chunk().await?;
        Ok(chunk.map(Piece::Data))
    }
}

/// Why a child is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The program is missing or may not be run.
    #[error("{program} could not be started")]
    Start {
        /// Which one.
        program: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The exit status is not zero, or a signal ended the child.
    #[error("{program} failed ({status}){}{stderr}", if stderr.is_empty() { "" } else { ": " })]
    Exit {
        /// Which one.
        program: String,
        /// Its status.
        status: ExitStatus,
        /// The last lines of its standard error.
        stderr: String,
    },
    /// A pipe to the child broke.
    #[error("the output of {program} could not be read")]
    Read {
        /// Which one.
        program: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The child printed more than the caller is ready to hold.
    #[error("{program} printed more than {stdout_bytes_max} bytes")]
    TooMuchOutput {
        /// Which one.
        program: String,
        /// The limit.
        stdout_bytes_max: usize,
    },
    /// Someone asked to stop; the child was killed.
    #[error("{program} was stopped by request")]
    Cancelled {
        /// Which one.
        program: String,
    },
}

/// Reads to the end and keeps the last [`STDERR_TAIL_BYTES`].
async fn tail(mut pipe: tokio::process::ChildStderr) -> Vec<u8> {
    let mut kept = VecDeque::new();
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = pipe.read(&mut chunk).await {
        kept.extend(&chunk[..read]);
        let excess = kept.len().saturating_sub(STDERR_TAIL_BYTES);
        kept.drain(..excess);
    }
    kept.into()
}

async fn cancelled(cancel: &Cancel) {
    while !cancel.is_cancelled() {
        tokio::time::sleep(CANCEL_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        Command::new("sh").arg("-c").arg(script)
    }

    #[tokio::test]
    async fn output_of_a_child_that_fails_ends_in_an_error_with_what_it_complained_about() {
        let mut running = shell("printf half; echo 'no such table' >&2; exit 3").start().expect("sh runs");
        assert_eq!(running.chunk().await.expect("first bytes").as_deref(), Some(&b"half"[..]));
        let error = running.chunk().await.expect_err("the status is not zero");
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        assert!(error.to_string().ends_with("no such table"), "{error}");
    }

    #[tokio::test]
    async fn a_child_that_is_killed_from_outside_is_a_failure() {
        let error = shell("printf half; kill -9 $$").run(100, &Cancel::default()).await.expect_err("killed");
        assert!(matches!(error, ProcessError::Exit { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_flood_of_complaints_is_read_but_only_its_end_is_kept() {
        let script = "i=0; while [ $i -lt 20000 ]; do echo complaint $i >&2; i=$((i+1)); done; exit 1";
        let error = shell(script).run(100, &Cancel::default()).await.expect_err("status 1");
        let text = error.to_string();
        assert!(text.ends_with("complaint 19999") && text.len() < STDERR_TAIL_BYTES + 200, "{}", text.len());
    }

    #[tokio::test]
    async fn more_output_than_allowed_is_refused() {
        let error = shell("printf 12345").run(4, &Cancel::default()).await.expect_err("five bytes");
        assert!(matches!(error, ProcessError::TooMuchOutput { .. }), "{error}");
    }

    #[tokio::test]
    async fn the_environment_is_clean_but_for_what_was_given() {
        let out = shell("env | cut -d= -f1 | sort | tr '\\n' ' '").env("PGPASSWORD", "x");
        let out = out.run(1000, &Cancel::default()).await.expect("env runs");
        assert_eq!(out.as_ref(), b"LC_ALL PATH PGPASSWORD PWD ");
    }

    #[tokio::test]
    async fn input_reaches_the_child() {
        let command = Command::new("cat").stdin(Bytes::from_static(b"hello"));
        assert_eq!(command.run(10, &Cancel::default()).await.expect("cat runs").as_ref(), b"hello");
    }

    #[tokio::test]
    async fn a_request_to_stop_kills_the_child_and_its_children() {
        let dir = tempfile::tempdir().expect("a directory");
        let fifo = dir.path().join("held");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .expect("a fifo");
        // A grandchild holds the write end open for as long as it lives.
        let script = format!("sh -c 'exec sleep 1000 > {}' & wait", fifo.display());
        let cancel = Cancel::default();
        let run = tokio::spawn({
            let cancel = cancel.clone();
            async move { shell(&script).run(10, &cancel).await }
        });
        let mut held = tokio::fs::File::open(&fifo).await.expect("the grandchild opens the other end");
        cancel.cancel();
        let error = run.await.expect("no panic").expect_err("stopped");
        assert!(matches!(error, ProcessError::Cancelled { .. }), "{error}");
        // End of file comes only when the grandchild is gone.
        assert_eq!(held.read(&mut [0; 1]).await.expect("end of file"), 0);
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = Command::new("/nowhere/pg_dump").start().expect_err("it does not exist");
        assert_eq!(error.to_string(), "/nowhere/pg_dump could not be started");
    }
}
