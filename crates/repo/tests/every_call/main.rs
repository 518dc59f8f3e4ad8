//! Every operation with every fault at every call of its stores in turn, alone and with another operation that
//! comes between: every sealed snapshot restores equal, a check finds nothing, the next run succeeds.
//!
//! Usually a part of the calls is tried, the same ones each time; all of them where `LIFEBOAT_LONG` is set, and
//! those of certain numbers where `LIFEBOAT_SEEDS` names them: what fails tells its number.

mod acts;
mod alone;
mod beside;
mod history;
mod machine;
mod site;
