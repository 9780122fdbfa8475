//! Onto the interface and off again: native where the driver can, generic where it cannot, never over somebody else.

use std::fs;
use std::path::PathBuf;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{Xdp, XdpMode};

use crate::{Error, Steer, kernel};

/// How the program sits on its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Detached,
    /// In the driver.
    Native,
    /// In the kernel's generic hook, behind an allocation a packet.
    Generic,
}

impl Mode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Detached => "detached",
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

impl Steer {
    fn link_pin(&self) -> PathBuf {
        self.folder.join("link")
    }

    /// Attach, or replace the program of an earlier process in one step. With `native_only` the generic hook is refused.
    pub fn attach(&mut self, native_only: bool) -> Result<(), Error> {
        if self.take_over() {
            return Ok(());
        }
        let interface = self.interface.clone();
        match self.try_attach(&interface, XdpMode::Driver) {
            Ok(()) => self.mode = Mode::Native,
            Err(error) => {
                self.fail_if_occupied(&error)?;
                if native_only {
                    return Err(error);
                }
                self.try_attach(&interface, XdpMode::Skb)
                    .map_err(|generic| self.fail_if_occupied(&generic).err().unwrap_or(generic))?;
                self.mode = Mode::Generic;
                self.reason = Some(error.to_string());
            }
        }
        Ok(())
    }

    /// The link of an earlier process, if it is still on the interface.
    fn take_over(&mut self) -> bool {
        let pin = self.link_pin();
        let Ok(pinned) = PinnedLink::from_pin(&pin) else { return false };
        let old: FdLink = pinned.into();
        let taken = XdpLink::try_from(old).ok().and_then(|link| {
            let program = self.program().ok()?;
            program.attach_to_link(link).ok()
        });
        if let Some(id) = taken {
            self.link = Some(id);
            self.took_over = true;
            self.mode = self.mode_file();
            return true;
        }
        // The device it sat on is gone; so is the link.
        drop(fs::remove_file(pin));
        false
    }

    fn try_attach(&mut self, interface: &str, mode: XdpMode) -> Result<(), Error> {
        let pin = self.link_pin();
        let program: &mut Xdp = self.program()?;
        let id = program.attach(interface, mode).map_err(kernel("attach the XDP program"))?;
        let link = program.take_link(id).map_err(kernel("take the XDP link"))?;
        let link: FdLink = link.try_into().map_err(kernel("pin the XDP link (kernel 5.9 or later)"))?;
        let pinned = link.pin(&pin).map_err(kernel("pin the XDP link"))?;
        // Pinned, the link needs nobody to hold it. What is attached by it is read back from the pin when needed.
        drop(pinned);
        Ok(())
    }

    /// Generic links are remembered by the flag of the interface.
    fn mode_file(&self) -> Mode {
        let flags = program_flags(&self.interface);
        if flags.contains("xdpgeneric") { Mode::Generic } else { Mode::Native }
    }

    fn fail_if_occupied(&self, error: &Error) -> Result<(), Error> {
        let Error::Kernel { source, .. } = error else { return Ok(()) };
        let text = crate::chain(source.as_ref());
        let shown = program_flags(&self.interface);
        if shown.is_empty() && !text.contains("os error 16") {
            return Ok(());
        }
        Err(Error::Occupied {
            interface: self.interface.clone(),
            program: if shown.is_empty() { "busy".to_owned() } else { shown },
        })
    }

    pub(crate) fn release_link(&mut self) -> Result<(), Error> {
        let pin = self.link_pin();
        if let Some(id) = self.link.take() {
            let program = self.program()?;
            drop(program.take_link(id));
        }
        if pin.exists() {
            fs::remove_file(&pin).map_err(kernel("remove the pin of the XDP link"))?;
        }
        self.mode = Mode::Detached;
        Ok(())
    }
}

/// What `ip link` shows of XDP on this interface: `xdp` or `xdpgeneric` and `prog/xdp id N`; empty when there is none.
fn program_flags(interface: &str) -> String {
    let output =
        std::process::Command::new("ip").args(["-details", "link", "show", "dev", interface]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    let kind = words.iter().find(|word| word.starts_with("xdp")).copied();
    let program = words.windows(3).find(|three| three[0] == "prog/xdp").map(|three| three.join(" "));
    match (kind, program) {
        (Some(kind), Some(program)) => format!("{kind}, {program}"),
        (Some(kind), None) => kind.to_owned(),
        (None, Some(program)) => program,
        (None, None) => String::new(),
    }
}
