/**
 * How a device's PASIDs are managed.
 * 'guest-table': the guest owns the table in its memory and the whole space (Arm, AMD); nothing is registered with the host.
 * 'host-table': the guest chooses PASIDs, the host owns the table and learns of each (Intel without ENQCMD).
 * 'global': the guest chooses below the split; every choice has a twin in the host's pool (Intel with ENQCMD).
 */
export type PasidManagement = 'guest-table' | 'host-table' | 'global';
