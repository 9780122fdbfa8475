//! Workers: a loop that receives bursts, shows them to `forward`, and sends what may leave.
//!
//! A worker promises bounded work a turn, and on the way of a packet no allocation, no lock and no system call but the
//! kicks of its I/O (what DNS answers teach is learned behind the burst, by trying a lock). It sees one generation of tables a burst (`epoch`), tells what happened by rings that never make it
//! wait (`ring`), keeps packets whose neighbour is unknown (`hold`) and DNS answers whose addresses are (`answers`), cuts
//! what is too long for its way (`pieces`), hands packets of other workers' flows over, and shows packets to those who watch
//! (`watch`). Whoever puts something into its rings wakes it (`bell`).

pub mod answers;
pub mod bell;
pub mod epoch;
pub mod hold;
pub mod io;
pub mod pieces;
pub mod ring;
pub mod watch;
pub mod worker;
