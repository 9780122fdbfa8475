//! Everything that packets of one worker may change: no lock, no sharing.
