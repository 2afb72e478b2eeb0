//! System calls that a front never makes, refused with `EPERM`.
//!
//! It is a list of what is denied, not of what is allowed: which calls a C library, a runtime or a resolver makes
//! changes with their versions, and a call that such a list lacks breaks a front in production, while what is worth
//! refusing hardly changes. What is left can do no more than talk on sockets and use the files that Landlock leaves.
//!
//! Calls of another architecture's table (32 bit on a machine of 64) end the process. On x86-64, the numbers of the
//! x32 table are refused beside the usual ones. `clone3` keeps its flags where a filter can't see them and is answered
//! as if the kernel did not have it, so that the C library takes `clone`, of which flags for namespaces are refused.
//!
//! Cost: some 50 ns for each call, whatever the length of the list: the kernel knows of each that the filter allows it
//! whatever its arguments are (Linux 5.11), and does not run the filter then. That is all calls of a session.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

/// Refused whatever their arguments are.
const REFUSED: &[i64] = &[
    // Other programs, and other processes' memory and descriptors.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // Becoming somebody.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    // Another view of the machine.
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_personality,
    // Parts of the kernel that only attacks would use from here.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    // The machine itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_vhangup,
];

/// The same, on one architecture alone.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[
    libc::SYS_mknod,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// Marks the numbers of the x32 table.
const X32: i64 = 0x4000_0000;
/// Refused calls that have a number of their own there: execve, ptrace, kexec_load, process_vm_readv and _writev,
/// execveat.
const X32_OWN: [i64; 6] = [520, 521, 528, 539, 540, 545];

/// `CLONE_NEW...`: mount, cgroup, uts, ipc, user, pid, net.
const NAMESPACES: [u64; 7] = [
    0x0002_0000,
    0x0200_0000,
    0x0400_0000,
    0x0800_0000,
    0x1000_0000,
    0x2000_0000,
    0x4000_0000,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Refuses them, to this thread and those that it starts. False: the kernel or the machine's architecture has no
/// filters.
pub(super) fn refuse() -> Result<bool, Error> {
    let Ok(architecture) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(false);
    };
    let filters = [
        (rules()?, rustix::io::Errno::PERM),
        (
            Rules::from([(libc::SYS_clone3, Vec::new())]),
            rustix::io::Errno::NOSYS,
        ),
    ];
    for (rules, errno) in filters {
        let answer = SeccompAction::Errno(errno.raw_os_error().unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, answer, architecture)?;
        match apply_filter(&BpfProgram::try_from(filter)?) {
            Err(Error::Seccomp(error) | Error::Prctl(error)) if is_missing(&error) => {
                return Ok(false);
            }
            applied => applied?,
        }
    }
    Ok(true)
}

fn is_missing(error: &std::io::Error) -> bool {
    let missing = [rustix::io::Errno::NOSYS, rustix::io::Errno::INVAL];
    missing
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn rules() -> Result<Rules, BackendError> {
    let mut rules: Rules = REFUSED
        .iter()
        .chain(REFUSED_HERE)
        .map(|call| (*call, Vec::new()))
        .collect();
    if cfg!(target_arch = "x86_64") {
        let same = rules.keys().map(|call| call | X32);
        let own = X32_OWN.iter().map(|call| call | X32);
        let x32: Vec<i64> = same.chain(own).collect();
        rules.extend(x32.into_iter().map(|call| (call, Vec::new())));
    }
    let namespaces = NAMESPACES.map(|flag| {
        let is_set = SeccompCmpOp::MaskedEq(flag);
        let flags = SeccompCondition::new(0, SeccompCmpArgLen::Qword, is_set, flag)?;
        SeccompRule::new(vec![flags])
    });
    let namespaces = namespaces.into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_clone, namespaces);
    Ok(rules)
}
