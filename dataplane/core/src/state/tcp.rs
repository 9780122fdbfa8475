//! How far a TCP connection is, from the flags that passed by in either direction.

use crate::parse::{ACK, FIN, RST, SYN};

/// Enough of RFC 9293 to choose a timeout and to know when a flow is over; sequence numbers are the ends' business.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[repr(u8)]
pub enum TcpState {
    /// The first SYN went by; nobody answered.
    #[default]
    SynSent,
    /// SYN and ACK came back.
    SynReceived,
    Established,
    /// The client said FIN.
    ClosingOriginal,
    /// The server said FIN.
    ClosingReply,
    /// Both sides said FIN: only stragglers come.
    Closed,
    /// A reset ended it.
    Reset,
}

impl TcpState {
    /// The state after a segment with these flags.
    #[inline]
    #[must_use]
    pub const fn after(self, flags: u8, is_reply: bool) -> Self {
        if flags & RST != 0 {
            return Self::Reset;
        }
        if flags & FIN != 0 {
            return match (self, is_reply) {
                (Self::ClosingOriginal, true) | (Self::ClosingReply, false) | (Self::Closed, _) => {
                    Self::Closed
                }
                (Self::Reset, _) => Self::Reset,
                (_, false) => Self::ClosingOriginal,
                (_, true) => Self::ClosingReply,
            };
        }
        match self {
            Self::SynSent if is_reply && flags & (SYN | ACK) == SYN | ACK => Self::SynReceived,
            Self::SynReceived if !is_reply && flags & ACK != 0 && flags & SYN == 0 => Self::Established,
            // Picked up in the middle, or a SYN-ACK that took another way.
            Self::SynSent if flags & SYN == 0 && flags & ACK != 0 && is_reply => Self::Established,
            Self::SynSent
            | Self::SynReceived
            | Self::Established
            | Self::ClosingOriginal
            | Self::ClosingReply
            | Self::Closed
            | Self::Reset => self,
        }
    }

    /// The same where replies take another way: the client's word is all there is. Its first segment after the SYN says
    /// that somebody answered; its FIN starts the closing, which the other side's may follow unseen.
    #[inline]
    #[must_use]
    pub const fn after_alone(self, flags: u8) -> Self {
        let next = self.after(flags, false);
        let answered = matches!(next, Self::SynSent) && flags & (SYN | ACK) == ACK;
        if answered { Self::Established } else { next }
    }

    /// Nobody confirmed yet that both ends exist: first to go when the table is full.
    pub const fn half_open(self) -> bool {
        matches!(self, Self::SynSent | Self::SynReceived)
    }

    /// Over: a new SYN may take the same addresses and ports.
    pub const fn over(self) -> bool {
        matches!(self, Self::Closed | Self::Reset)
    }

    #[inline]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::SynSent,
            1 => Self::SynReceived,
            2 => Self::Established,
            3 => Self::ClosingOriginal,
            4 => Self::ClosingReply,
            5 => Self::Closed,
            _ => Self::Reset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_from_hello_to_goodbye() {
        let segments = [
            (SYN, false, TcpState::SynSent),
            (SYN | ACK, true, TcpState::SynReceived),
            (ACK, false, TcpState::Established),
            (ACK, true, TcpState::Established),
            (FIN | ACK, true, TcpState::ClosingReply),
            (ACK, false, TcpState::ClosingReply),
            (FIN | ACK, false, TcpState::Closed),
            (ACK, true, TcpState::Closed),
        ];
        let mut state = TcpState::default();
        for (flags, is_reply, expected) in segments {
            state = state.after(flags, is_reply);
            assert_eq!(state, expected);
        }
    }

    #[test]
    fn a_connection_whose_replies_take_another_way() {
        let alone =
            |flags: &[u8]| flags.iter().fold(TcpState::SynSent, |state, flags| state.after_alone(*flags));
        assert!(alone(&[SYN, SYN]).half_open());
        assert_eq!(alone(&[SYN, ACK, ACK]), TcpState::Established);
        assert_eq!(alone(&[SYN, ACK, FIN | ACK, ACK]), TcpState::ClosingOriginal);
        assert_eq!(alone(&[SYN, ACK, RST]), TcpState::Reset);
    }

    #[test]
    fn acks_from_the_client_alone_establish_nothing() {
        let state = TcpState::SynSent.after(ACK, false).after(ACK, false);
        assert!(state.half_open());
    }
}
