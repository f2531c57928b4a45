// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes one emulated NVMe controller die as a Samsung SM951 (144d:a802) does: of a function level
 * reset while it is enabled or shut down. The parameters say what a test can set and read.
 *
 * It stands between the kernel and the configuration space of two buses: the controller's own,
 * and the one of the port above it. Whatever it hides or refuses there, the hardware beneath is
 * an ordinary NVMe controller.
 *
 * "frozen" is a drive that has fallen off: configuration reads are all ones, writes are lost,
 * BAR0 does not answer. So does a drive in a slot without power, but that comes back with it.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/io.h>
#include <linux/module.h>
#include <linux/nvme.h>
#include <linux/pci.h>
#include <linux/rcupdate.h>
#include <linux/spinlock.h>

#define SM951_VENDOR_ID 0x144d
#define SM951_DEVICE_ID 0xa802
#define ALL_ONES 0xffffffffu
#define SLOT_OFF (PCI_EXP_SLTCTL_PWR_OFF >> 8)
#define SLOT_ON (PCI_EXP_SLTCTL_PWR_IND_ON >> 8)
#define SLOT_POWER ((PCI_EXP_SLTCTL_PCC | PCI_EXP_SLTCTL_PIC) >> 8)

static char *bdf;
module_param(bdf, charp, 0444);
MODULE_PARM_DESC(bdf, "the controller, as 0000:03:00.0; it has to be alone behind its port");

static bool bus_reset_revives;
module_param(bus_reset_revives, bool, 0644);
MODULE_PARM_DESC(bus_reset_revives, "a secondary bus reset thaws");

static bool rescan_revives;
module_param(rescan_revives, bool, 0644);
MODULE_PARM_DESC(rescan_revives, "a rescan after a removal thaws");

static bool slot_revives;
module_param(slot_revives, bool, 0644);
MODULE_PARM_DESC(slot_revives, "the slot's power, off and on, thaws");

static bool any_flr_freezes;
module_param(any_flr_freezes, bool, 0644);
MODULE_PARM_DESC(any_flr_freezes, "also a function level reset that kills no SM951 freezes");

static uint flr_fatal;
module_param(flr_fatal, uint, 0444);
MODULE_PARM_DESC(flr_fatal, "function level resets that froze it by any_flr_freezes alone");

static uint flr_good;
module_param(flr_good, uint, 0444);
MODULE_PARM_DESC(flr_good, "function level resets passed on");

static uint flr_lethal;
module_param(flr_lethal, uint, 0444);
MODULE_PARM_DESC(flr_lethal, "function level resets that froze it");

static uint bus_resets;
module_param(bus_resets, uint, 0444);
MODULE_PARM_DESC(bus_resets, "secondary bus resets, frozen or not");

/*
 * One lock for all state and for the registers beneath: x86 does not hold pci_lock around
 * configuration accesses (CONFIG_PCI_LOCKLESS_CONFIG).
 */
static DEFINE_RAW_SPINLOCK(lock);

static struct pci_ops ops;
static struct pci_ops *beneath;
static struct pci_dev *port;
static struct pci_bus *bus;	/* stays while the controller comes and goes */
static unsigned int devfn;
static int pm_cap, pcie_cap;
static int slot_control;	/* the upper byte of Slot Control in the port */

static void __iomem *bar0;	/* mapped where BAR0 was at load; see read_registers() */
static u64 bar0_home;
static u32 version;

static bool frozen, d3hot, removed, in_bus_reset;
static u8 slot_power;	/* the bits of SLOT_POWER as the host has written them */
static u16 command;	/* what the host has written, while we keep memory decode off beneath */
static u32 last_cc, last_csts;

static u32 read_beneath(int where, int size)
{
	u32 value = ALL_ONES;

	beneath->read(bus, devfn, where, size, &value);
	return value;
}

static void write_beneath(int where, int size, u32 value)
{
	beneath->write(bus, devfn, where, size, value);
}

static bool covers(int where, int size, int reg)
{
	return where <= reg && reg < where + size;
}

/* Of an access of @size bytes at @where: the byte at @reg. */
static u8 byte_of(u32 value, int where, int reg)
{
	return value >> (8 * (reg - where));
}

static u32 with_byte(u32 value, int where, int reg, u8 byte)
{
	int shift = 8 * (reg - where);

	return (value & ~(0xffu << shift)) | (u32)byte << shift;
}

static void place_bar0(u64 address, u16 decode)
{
	/* Never decoding a half-written address. */
	write_beneath(PCI_COMMAND, 2, decode & ~PCI_COMMAND_MEMORY);
	write_beneath(PCI_BASE_ADDRESS_0, 4, lower_32_bits(address));
	write_beneath(PCI_BASE_ADDRESS_1, 4, upper_32_bits(address));
	write_beneath(PCI_COMMAND, 2, decode);
}

/*
 * Read BAR0, with interrupts off, wherever the host has put it and whether or not it decodes.
 * We cannot map it here (ioremap() sleeps); so we put it for a moment where we mapped it. That
 * address is free: nothing else is behind the port. VS tells whether it is still routed there.
 */
static void read_registers(u32 *vs, u32 *cc, u32 *csts)
{
	u16 decode = read_beneath(PCI_COMMAND, 2);
	u64 address = read_beneath(PCI_BASE_ADDRESS_1, 4);
	bool there;

	address = address << 32 | (read_beneath(PCI_BASE_ADDRESS_0, 4) & PCI_BASE_ADDRESS_MEM_MASK);
	/* At load a driver may be using it: then a moment without decode would lose a doorbell. */
	there = decode & PCI_COMMAND_MEMORY && address == bar0_home;

	if (!there)
		place_bar0(bar0_home, decode | PCI_COMMAND_MEMORY);
	*vs = readl(bar0 + NVME_REG_VS);
	*cc = readl(bar0 + NVME_REG_CC);
	*csts = readl(bar0 + NVME_REG_CSTS);
	if (!there)
		place_bar0(address, decode);
}

static bool is_silent(void)
{
	return frozen || slot_power & SLOT_OFF;
}

/* Keep memory decode off beneath while silent or in D3hot, else let it be what the host wrote. */
static void apply_command(void)
{
	u16 wanted = command;

	if (is_silent() || d3hot)
		wanted &= ~PCI_COMMAND_MEMORY;
	write_beneath(PCI_COMMAND, 2, wanted);
}

/* Learn what the hardware holds now, after a reset beneath or on load. */
static void take_state(void)
{
	command = read_beneath(PCI_COMMAND, 2);
	d3hot = pm_cap && (read_beneath(pm_cap + PCI_PM_CTRL, 2) & PCI_PM_CTRL_STATE_MASK) == PCI_D3hot;
	apply_command();
}

static void hide(bool wanted)
{
	frozen = wanted;
	apply_command();
}

/* What has been without power, or comes back on a rescan, has lost its registers. */
static void power_cycle(bool thaws)
{
	u16 control = read_beneath(pcie_cap + PCI_EXP_DEVCTL, 2);

	write_beneath(pcie_cap + PCI_EXP_DEVCTL, 2, control | PCI_EXP_DEVCTL_BCR_FLR);
	if (thaws)
		frozen = false;
	take_state();
}

/* Is a function level reset now what kills an SM951? */
static bool is_lethal(void)
{
	u32 vs;

	read_registers(&vs, &last_cc, &last_csts);
	if (vs != version) {
		pr_err("BAR0 is not routed to where it was at load: taken as all ones\n");
		last_cc = last_csts = ALL_ONES;
	}
	return (last_cc & (NVME_CC_ENABLE | NVME_CC_SHN_MASK)) || (last_csts & NVME_CSTS_SHST_MASK);
}

static void function_level_reset(int where, int size, u32 value)
{
	bool lethal = is_lethal();

	if (lethal || any_flr_freezes) {
		if (lethal)
			flr_lethal++;
		else
			flr_fatal++;
		hide(true);
		return;
	}
	flr_good++;
	write_beneath(where, size, value);
	take_state();
}

static void write_command(int where, int size, u32 value)
{
	int reg;

	for (reg = PCI_COMMAND; reg < PCI_COMMAND + 2; reg++)
		if (covers(where, size, reg))
			command = with_byte(command, PCI_COMMAND, reg, byte_of(value, where, reg));
	if (d3hot && covers(where, size, PCI_COMMAND))
		value = with_byte(value, where, PCI_COMMAND,
				  byte_of(value, where, PCI_COMMAND) & ~PCI_COMMAND_MEMORY);
	write_beneath(where, size, value);
}

static void controller_read(int where, int size, u32 *value)
{
	static const u8 id[] = {
		SM951_VENDOR_ID & 0xff, SM951_VENDOR_ID >> 8,
		SM951_DEVICE_ID & 0xff, SM951_DEVICE_ID >> 8,
	};
	int reg;

	if (frozen && removed && rescan_revives && covers(where, size, PCI_VENDOR_ID))
		power_cycle(true);
	if (is_silent()) {
		*value = ALL_ONES >> (32 - 8 * size);
		return;
	}
	*value = read_beneath(where, size);
	for (reg = PCI_VENDOR_ID; reg < PCI_VENDOR_ID + sizeof(id); reg++)
		if (covers(where, size, reg))
			*value = with_byte(*value, where, reg, id[reg - PCI_VENDOR_ID]);
	if (d3hot && (command & PCI_COMMAND_MEMORY) && covers(where, size, PCI_COMMAND))
		*value = with_byte(*value, where, PCI_COMMAND,
				   byte_of(*value, where, PCI_COMMAND) | PCI_COMMAND_MEMORY);
}

static void controller_write(int where, int size, u32 value)
{
	int flr = pcie_cap + PCI_EXP_DEVCTL + 1;

	if (is_silent())
		return;
	if (covers(where, size, flr) && byte_of(value, where, flr) & (PCI_EXP_DEVCTL_BCR_FLR >> 8)) {
		function_level_reset(where, size, value);
	} else if (where < PCI_COMMAND + 2 && where + size > PCI_COMMAND) {
		write_command(where, size, value);
	} else {
		write_beneath(where, size, value);
		if (pm_cap && covers(where, size, pm_cap + PCI_PM_CTRL)) {
			d3hot = (byte_of(value, where, pm_cap + PCI_PM_CTRL) & PCI_PM_CTRL_STATE_MASK)
				== PCI_D3hot;
			apply_command();
		}
	}
}

/* A real bus reset has happened beneath; a frozen controller just does not show it. */
static void bus_reset_written(bool asserted)
{
	if (asserted == in_bus_reset)
		return;
	in_bus_reset = asserted;
	if (asserted) {
		bus_resets++;
		take_state();
	} else if (frozen && bus_reset_revives) {
		hide(false);
	}
}

/*
 * The slot has a power switch, but QEMU unplugs for good what is in a slot that is switched off.
 * So the port always has it on beneath; what the host wrote is for us to act on and to show.
 */
static u32 write_slot_control(int where, int size, u32 value)
{
	u8 byte = byte_of(value, where, slot_control);
	bool was_off = slot_power & SLOT_OFF;

	slot_power = byte & SLOT_POWER;
	if (was_off != !!(slot_power & SLOT_OFF))
		power_cycle(was_off && slot_revives);
	return with_byte(value, where, slot_control, (byte & ~SLOT_POWER) | SLOT_ON);
}

static u32 read_slot_control(int where, int size, u32 value)
{
	u8 byte = byte_of(value, where, slot_control);

	return with_byte(value, where, slot_control, (byte & ~SLOT_POWER) | slot_power);
}

static int port_read(int where, int size, u32 *value)
{
	int answer = beneath->read(port->bus, port->devfn, where, size, value);

	if (covers(where, size, slot_control))
		*value = read_slot_control(where, size, *value);
	return answer;
}

static int port_write(int where, int size, u32 value)
{
	int answer;

	if (covers(where, size, slot_control))
		value = write_slot_control(where, size, value);
	answer = beneath->write(port->bus, port->devfn, where, size, value);
	if (covers(where, size, PCI_BRIDGE_CONTROL))
		bus_reset_written(byte_of(value, where, PCI_BRIDGE_CONTROL)
				  & PCI_BRIDGE_CTL_BUS_RESET);
	return answer;
}

static bool is_controller(struct pci_bus *where, unsigned int which)
{
	return where == bus && which == devfn;
}

static bool is_port(struct pci_bus *where, unsigned int which)
{
	return where == port->bus && which == port->devfn;
}

static int double_read(struct pci_bus *on, unsigned int fn, int where, int size, u32 *value)
{
	int answer = PCIBIOS_SUCCESSFUL;
	unsigned long flags;

	if (!is_controller(on, fn) && !is_port(on, fn))
		return beneath->read(on, fn, where, size, value);
	raw_spin_lock_irqsave(&lock, flags);
	if (is_controller(on, fn))
		controller_read(where, size, value);
	else
		answer = port_read(where, size, value);
	raw_spin_unlock_irqrestore(&lock, flags);
	return answer;
}

static int double_write(struct pci_bus *on, unsigned int fn, int where, int size, u32 value)
{
	int answer = PCIBIOS_SUCCESSFUL;
	unsigned long flags;

	if (!is_controller(on, fn) && !is_port(on, fn))
		return beneath->write(on, fn, where, size, value);
	raw_spin_lock_irqsave(&lock, flags);
	if (is_controller(on, fn))
		controller_write(where, size, value);
	else
		answer = port_write(where, size, value);
	raw_spin_unlock_irqrestore(&lock, flags);
	return answer;
}

static int notified(struct notifier_block *block, unsigned long event, void *data)
{
	struct pci_dev *dev = to_pci_dev(data);

	if (is_controller(dev->bus, dev->devfn)) {
		if (event == BUS_NOTIFY_ADD_DEVICE)
			removed = false;
		else if (event == BUS_NOTIFY_REMOVED_DEVICE)
			removed = true;
	}
	return NOTIFY_DONE;
}

static struct notifier_block notifier = { .notifier_call = notified };

static int set_frozen(const char *text, const struct kernel_param *kp)
{
	unsigned long flags;
	bool wanted;
	int error = kstrtobool(text, &wanted);

	if (error)
		return error;
	/* There is nothing to freeze while the module's arguments are parsed. */
	if (!beneath)
		return -ENXIO;
	raw_spin_lock_irqsave(&lock, flags);
	if (wanted != frozen)
		hide(wanted);
	raw_spin_unlock_irqrestore(&lock, flags);
	return 0;
}

static const struct kernel_param_ops frozen_ops = { .set = set_frozen, .get = param_get_bool };
module_param_cb(frozen, &frozen_ops, &frozen, 0644);
MODULE_PARM_DESC(frozen, "1: it has fallen off; write 1 to make it so, 0 to undo just that");

static int get_hex(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%08x\n", *(u32 *)kp->arg);
}

static const struct kernel_param_ops hex_ops = { .get = get_hex };
module_param_cb(last_cc, &hex_ops, &last_cc, 0444);
MODULE_PARM_DESC(last_cc, "CC just before the last function level reset");
module_param_cb(last_csts, &hex_ops, &last_csts, 0444);
MODULE_PARM_DESC(last_csts, "CSTS just before the last function level reset");

static int set_clear(const char *text, const struct kernel_param *kp)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&lock, flags);
	flr_good = flr_lethal = flr_fatal = bus_resets = last_cc = last_csts = 0;
	bus_reset_revives = rescan_revives = slot_revives = any_flr_freezes = false;
	raw_spin_unlock_irqrestore(&lock, flags);
	return 0;
}

static const struct kernel_param_ops clear_ops = { .set = set_clear };
module_param_cb(clear, &clear_ops, NULL, 0200);
MODULE_PARM_DESC(clear, "write anything: counters, last values and faults but frozen become 0");

static struct pci_dev *find_controller(void)
{
	unsigned int domain, number, slot, function;

	if (!bdf || sscanf(bdf, "%x:%x:%x.%u", &domain, &number, &slot, &function) != 4)
		return NULL;
	return pci_get_domain_bus_and_slot(domain, number, PCI_DEVFN(slot, function));
}

static int stand_between(struct pci_dev *dev)
{
	unsigned long flags;
	u32 cc, csts;

	bus = dev->bus;
	devfn = dev->devfn;
	pm_cap = dev->pm_cap;
	pcie_cap = dev->pcie_cap;
	if (bus->ops != port->bus->ops)
		return -EOPNOTSUPP;

	slot_control = port->pcie_cap + PCI_EXP_SLTCTL + 1;

	bar0_home = pci_resource_start(dev, 0);
	if (!bar0_home || !pcie_cap || !port->pcie_cap)
		return -ENXIO;
	bar0 = ioremap(bar0_home, NVME_REG_DBS);
	if (!bar0)
		return -ENOMEM;

	get_device(&bus->dev);
	beneath = bus->ops;
	raw_spin_lock_irqsave(&lock, flags);
	slot_power = SLOT_ON;
	take_state();
	read_registers(&version, &cc, &csts);
	raw_spin_unlock_irqrestore(&lock, flags);
	if (!version || version == ALL_ONES) {
		put_device(&bus->dev);
		iounmap(bar0);
		return -EIO;
	}

	ops = *beneath;
	ops.read = double_read;
	ops.write = double_write;
	bus_register_notifier(&pci_bus_type, &notifier);
	pci_bus_set_ops(bus, &ops);
	pci_bus_set_ops(port->bus, &ops);
	return 0;
}

static int __init double_init(void)
{
	struct pci_dev *dev = find_controller();
	int error = -ENODEV;

	if (!dev)
		return -ENODEV;
	port = pci_dev_get(pci_upstream_bridge(dev));
	if (port && dev->class == PCI_CLASS_STORAGE_EXPRESS)
		error = stand_between(dev);
	pci_dev_put(dev);
	if (error)
		pci_dev_put(port);
	else
		pr_info("%s is an SM951 once it is removed and rescanned\n", bdf);
	return error;
}

/* A bus that appeared since has taken our ops over from its parent. */
static void step_aside(int domain)
{
	struct pci_bus *each;
	int number;

	for (number = 0; number < 256; number++) {
		each = pci_find_bus(domain, number);
		if (each && each->ops == &ops)
			pci_bus_set_ops(each, beneath);
	}
	/* An access that has just looked our ops up may have been preempted before it took the lock. */
	synchronize_rcu_tasks();
}

static void __exit double_exit(void)
{
	unsigned long flags;

	step_aside(pci_domain_nr(port->bus));
	bus_unregister_notifier(&pci_bus_type, &notifier);
	raw_spin_lock_irqsave(&lock, flags);
	if (is_silent() || d3hot) {
		frozen = d3hot = false;
		slot_power = SLOT_ON;
		apply_command();
	}
	raw_spin_unlock_irqrestore(&lock, flags);
	iounmap(bar0);
	put_device(&bus->dev);
	pci_dev_put(port);
}

module_init(double_init);
module_exit(double_exit);

MODULE_LICENSE("GPL");
MODULE_AUTHOR("virt-nvme-reset");
MODULE_DESCRIPTION("An emulated NVMe controller with the reset defect of the Samsung SM951");
