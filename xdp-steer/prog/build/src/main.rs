//! `build-xdp SOURCE OBJECT`: one rustc call to LLVM bitcode for the host, retargeted to BPF by the libLLVM that rustc
//! itself is linked with. Refuses an object that calls anything.

use std::error::Error;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::null_mut;

type Handle = *mut c_void;
type Result<T> = std::result::Result<T, Box<dyn Error>>;

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> Handle;
    fn dlsym(library: Handle, name: *const c_char) -> Handle;
    fn dlerror() -> *const c_char;
}

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(source), Some(object)) = (arguments.next(), arguments.next()) else {
        return Err("usage: build-xdp SOURCE OBJECT".into());
    };
    let bitcode = object.with_extension("bc");
    compile(&source, &bitcode)?;
    let mut last: Box<dyn Error> = "no libLLVM beside rustc".into();
    for library in libraries()? {
        match retarget(&library, &bitcode, &object) {
            Ok(()) => {
                std::fs::remove_file(&bitcode)?;
                return calls_nothing(&std::fs::read(&object)?);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn rustc() -> Command {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.env_remove("RUSTFLAGS");
    command
}

fn compile(source: &Path, bitcode: &Path) -> Result<()> {
    let codegen = [
        "opt-level=3", "panic=abort", "codegen-units=1", "overflow-checks=off", "debug-assertions=off",
        "no-prepopulate-passes", "force-unwind-tables=no", "relocation-model=static",
    ];
    let output = rustc()
        .args(["--crate-type=lib", "--crate-name=steer", "--edition=2024", "--emit=llvm-bc"])
        .args(codegen.iter().flat_map(|option| ["-C", option]))
        .args(["--target", "x86_64-unknown-linux-gnu", "-o"])
        .arg(bitcode)
        .arg(source)
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(())
}

/// libLLVM of the toolchain, then of the system.
fn libraries() -> Result<Vec<PathBuf>> {
    let sysroot = rustc().args(["--print", "sysroot"]).output()?;
    let own = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim()).join("lib");
    let mut found = Vec::new();
    for folder in [own, "/usr/lib/x86_64-linux-gnu".into(), "/usr/lib64".into()] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // A few bytes are a linker script, not the library.
            let real = entry.path().metadata().is_ok_and(|data| data.len() > 1 << 20);
            if name.starts_with("libLLVM") && name.contains(".so") && real {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

macro_rules! functions {
    ($library:ident; $($name:ident($($argument:ty),*) -> $result:ty;)*) => {$(
        let symbol = unsafe { dlsym($library, concat!(stringify!($name), "\0").as_ptr().cast()) };
        if symbol.is_null() {
            return Err(concat!("no symbol ", stringify!($name)).into());
        }
        #[allow(non_snake_case)]
        let $name: extern "C" fn($($argument),*) -> $result = unsafe { std::mem::transmute(symbol) };
    )*};
}

fn retarget(library: &Path, bitcode: &Path, object: &Path) -> Result<()> {
    let path = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes());
    let text = |message: *const c_char| unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    let library = unsafe { dlopen(path(library)?.as_ptr(), 2) };
    if library.is_null() {
        return Err(text(unsafe { dlerror() }).into());
    }
    functions! { library;
        LLVMInitializeBPFTargetInfo() -> ();
        LLVMInitializeBPFTarget() -> ();
        LLVMInitializeBPFTargetMC() -> ();
        LLVMInitializeBPFAsmPrinter() -> ();
        LLVMContextCreate() -> Handle;
        LLVMCreateMemoryBufferWithContentsOfFile(*const c_char, *mut Handle, *mut *mut c_char) -> c_int;
        LLVMParseIRInContext(Handle, Handle, *mut Handle, *mut *mut c_char) -> c_int;
        LLVMSetTarget(Handle, *const c_char) -> ();
        LLVMGetTargetFromTriple(*const c_char, *mut Handle, *mut *mut c_char) -> c_int;
        LLVMCreateTargetMachine(Handle, *const c_char, *const c_char, *const c_char, c_int, c_int, c_int) -> Handle;
        LLVMCreateTargetDataLayout(Handle) -> Handle;
        LLVMSetModuleDataLayout(Handle, Handle) -> ();
        LLVMSetSourceFileName(Handle, *const c_char, usize) -> ();
        LLVMSetModuleIdentifier(Handle, *const c_char, usize) -> ();
        LLVMGetFirstFunction(Handle) -> Handle;
        LLVMGetNextFunction(Handle) -> Handle;
        LLVMIsDeclaration(Handle) -> c_int;
        LLVMGetSection(Handle) -> *const c_char;
        LLVMSetLinkage(Handle, c_int) -> ();
        LLVMRemoveStringAttributeAtIndex(Handle, c_uint, *const c_char, c_uint) -> ();
        LLVMCreatePassBuilderOptions() -> Handle;
        LLVMRunPasses(Handle, *const c_char, Handle, Handle) -> Handle;
        LLVMGetErrorMessage(Handle) -> *const c_char;
        LLVMTargetMachineEmitToFile(Handle, Handle, *const c_char, c_int, *mut *mut c_char) -> c_int;
    }
    LLVMInitializeBPFTargetInfo();
    LLVMInitializeBPFTarget();
    LLVMInitializeBPFTargetMC();
    LLVMInitializeBPFAsmPrinter();
    let (mut buffer, mut module, mut target, mut message) = (null_mut(), null_mut(), null_mut(), null_mut::<c_char>());
    let check = |failed: c_int, message: *mut c_char| match failed {
        0 => Ok(()),
        _ => Err(Box::<dyn Error>::from(text(message))),
    };
    let (input, output, triple) = (path(bitcode)?, path(object)?, c"bpfel-unknown-none".as_ptr());
    check(LLVMCreateMemoryBufferWithContentsOfFile(input.as_ptr(), &mut buffer, &mut message), message)?;
    check(LLVMParseIRInContext(LLVMContextCreate(), buffer, &mut module, &mut message), message)?;
    check(LLVMGetTargetFromTriple(triple, &mut target, &mut message), message)?;
    let machine = LLVMCreateTargetMachine(target, triple, c"v3".as_ptr(), c"".as_ptr(), 3, 0, 0);
    // The same object wherever it is built.
    LLVMSetSourceFileName(module, c"steer".as_ptr(), 5);
    LLVMSetModuleIdentifier(module, c"steer".as_ptr(), 5);
    LLVMSetTarget(module, triple);
    LLVMSetModuleDataLayout(module, LLVMCreateTargetDataLayout(machine));
    let mut function = LLVMGetFirstFunction(module);
    while !function.is_null() {
        for attribute in ["target-cpu", "target-features", "probe-stack", "tune-cpu"] {
            let length = attribute.len() as c_uint;
            LLVMRemoveStringAttributeAtIndex(function, c_uint::MAX, attribute.as_ptr().cast(), length);
        }
        // Only programs stay visible; everything else is inlined into them or dropped.
        let section = LLVMGetSection(function);
        if LLVMIsDeclaration(function) == 0 && (section.is_null() || unsafe { *section } == 0) {
            const INTERNAL: c_int = 8;
            LLVMSetLinkage(function, INTERNAL);
        }
        function = LLVMGetNextFunction(function);
    }
    let error = LLVMRunPasses(module, c"default<O3>,globaldce".as_ptr(), machine, LLVMCreatePassBuilderOptions());
    if !error.is_null() {
        return Err(text(LLVMGetErrorMessage(error)).into());
    }
    check(LLVMTargetMachineEmitToFile(machine, module, output.as_ptr(), 1, &mut message), message)
}

/// An undefined symbol (a stray memset or panic) would only show when the kernel refuses the object.
fn calls_nothing(elf: &[u8]) -> Result<()> {
    const SYMBOL_TABLE: usize = 2;
    let number = |at: usize, size: usize| elf[at..at + size].iter().rev().fold(0, |n, byte| n << 8 | usize::from(*byte));
    let (headers, count) = (number(0x28, 8), number(0x3c, 2));
    for header in (0..count).map(|index| headers + index * 64) {
        if number(header + 4, 4) != SYMBOL_TABLE {
            continue;
        }
        let (start, size) = (number(header + 24, 8), number(header + 32, 8));
        let names = number(headers + number(header + 40, 4) * 64 + 24, 8);
        for symbol in (start + 24..start + size).step_by(24).filter(|symbol| number(symbol + 6, 2) == 0) {
            let name = names + number(symbol, 4);
            let length = elf[name..].iter().position(|byte| *byte == 0).unwrap_or(0);
            return Err(format!("the object calls `{}`", String::from_utf8_lossy(&elf[name..name + length])).into());
        }
    }
    Ok(())
}
