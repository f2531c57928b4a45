// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A guest of a few kB that uses every NVMe controller it sees, then ends as its last word says:
 *
 *   shutdown  shutdown notification, then ACPI S5
 *   dirty     ACPI S5 at once: CC.EN stays set, no notification
 *   reboot    shutdown notification, then one machine reset; the second boot does "shutdown"
 *   hang      nothing, forever: "action hang" says that it got there
 *   serve     hot-unplug, hot-plug and the power button, which is answered as by "shutdown";
 *             "action serve" says that it got there
 *
 * What it has to say goes to COM1, one fact a line (see ``parts``).
 *
 * Sources: Multiboot 0.6.96; PCI Local Bus 3.0, 3.2.2.3.2; NVMe 1.4, 3.1 and 7.6;
 * QEMU hw/acpi/piix4.c, hw/isa/lpc_ich9.c and docs/specs/acpi_pci_hotplug.rst.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

#define MULTIBOOT_BOOTLOADER_MAGIC 0x2badb002
#define MULTIBOOT_INFO_CMDLINE (1 << 2)

struct multiboot_info {
	u32 flags, mem_lower, mem_upper, boot_device;
	const char *cmdline;
};

/* ---- ports ---------------------------------------------------------------------------- */

static void outb(u16 port, u8 value) { asm volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static void outw(u16 port, u16 value) { asm volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static void outl(u16 port, u32 value) { asm volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }

static u8 inb(u16 port)
{
	u8 value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static u16 inw(u16 port)
{
	u16 value;

	asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static u32 inl(u16 port)
{
	u32 value;

	asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static _Noreturn void halt(void)
{
	for (;;)
		asm volatile("cli; hlt");
}

/* ---- a tick, to sleep by: a guest that spins takes the host's only processor --------------- */

#define PIC1_COMMAND 0x20
#define PIC1_DATA 0x21
#define PIC2_DATA 0xa1
#define ICW1_INIT_ICW4 0x11
#define ICW4_8086 0x01
#define FIRST_VECTOR 0x20
#define VECTORS 8
#define INTERRUPT_GATE 0x8e00

extern const u8 tick_entry[];
extern const u16 code_selector;

static u16 idt[FIRST_VECTOR + VECTORS][4] __attribute__((aligned(8)));

/* Only IRQ 0, by which the firmware leaves the PIT ticking 18 times a second. */
static void start_ticking(void)
{
	struct __attribute__((packed)) {
		u16 limit;
		u32 base;
	} idtr = { sizeof(idt) - 1, (u32)idt };

	for (u32 vector = FIRST_VECTOR; vector < FIRST_VECTOR + VECTORS; vector++) {
		idt[vector][0] = (u32)tick_entry;
		idt[vector][1] = code_selector;
		idt[vector][2] = INTERRUPT_GATE;
		idt[vector][3] = (u32)tick_entry >> 16;
	}
	asm volatile("lidt %0" : : "m"(idtr), "m"(idt));
	outb(PIC1_COMMAND, ICW1_INIT_ICW4);
	outb(PIC1_DATA, FIRST_VECTOR);
	outb(PIC1_DATA, 1 << 2); /* the second one is at IRQ 2 */
	outb(PIC1_DATA, ICW4_8086);
	outb(PIC1_DATA, 0xfe);
	outb(PIC2_DATA, 0xff);
}

static void sleep_a_tick(void) { asm volatile("sti; hlt; cli" : : : "memory"); }

/* ---- COM1 ----------------------------------------------------------------------------- */

#define COM1 0x3f8
#define UART_LSR (COM1 + 5)
#define UART_LSR_THRE 0x20
#define UART_LSR_TEMT 0x40

static void put(char character)
{
	while (!(inb(UART_LSR) & UART_LSR_THRE))
		;
	outb(COM1, character);
}

static void put_decimal(u32 value)
{
	if (value >= 10)
		put_decimal(value / 10);
	put('0' + value % 10);
}

/* %s, %d, and %N: N hexadecimal digits. */
static void print(const char *format, ...)
{
	__builtin_va_list arguments;

	__builtin_va_start(arguments, format);
	for (; *format; format++) {
		if (*format != '%') {
			put(*format);
			continue;
		}
		format++;
		if (*format == 's') {
			const char *text = __builtin_va_arg(arguments, const char *);

			while (*text)
				put(*text++);
			continue;
		}
		u32 value = __builtin_va_arg(arguments, u32);

		if (*format == 'd')
			put_decimal(value);
		else
			for (int digit = *format - '1'; digit >= 0; digit--)
				put("0123456789abcdef"[value >> (4 * digit) & 15]);
	}
	__builtin_va_end(arguments);
}

/* ---- CMOS: a clock for time-outs, and a byte that a machine reset leaves alone ---------- */

#define RTC_SECONDS 0x00
#define CMOS_BOOTS 0x70 /* neither QEMU nor SeaBIOS uses it; 0 in a new QEMU */

static u8 cmos_read(u8 index)
{
	outb(0x70, index);
	return inb(0x71);
}

static u32 count_boot(void)
{
	u8 boots = cmos_read(CMOS_BOOTS) + 1;

	outb(0x70, CMOS_BOOTS);
	outb(0x71, boots);
	return boots;
}

/* Wait until (*word & mask) == value; return false after so many seconds. */
static int wait_for(volatile u32 *word, u32 mask, u32 value, u32 seconds)
{
	u8 last = cmos_read(RTC_SECONDS);

	while ((*word & mask) != value) {
		u8 now = cmos_read(RTC_SECONDS);

		if (now == last)
			continue;
		last = now;
		if (!seconds--)
			return 0;
	}
	return 1;
}

/* ---- PCI configuration mechanism 1 ------------------------------------------------------ */

#define PCI_VENDOR_ID 0x00
#define PCI_COMMAND 0x04
#define PCI_COMMAND_MEMORY 0x2
#define PCI_COMMAND_MASTER 0x4
#define PCI_CLASS_REVISION 0x08
#define PCI_CLASS_STORAGE_EXPRESS 0x010802
#define PCI_CLASS_BRIDGE_PCI_NORMAL 0x060400
#define PCI_HEADER_TYPE 0x0e
#define PCI_BASE_ADDRESS_0 0x10
#define PCI_BASE_ADDRESS_1 0x14

static void pci_select(u16 bdf, u8 where) { outl(0xcf8, 1u << 31 | bdf << 8 | (where & 0xfc)); }

static u32 pci_read(u16 bdf, u8 where)
{
	pci_select(bdf, where);
	return inl(0xcfc) >> 8 * (where & 3);
}

static void pci_enable(u16 bdf)
{
	u16 command = pci_read(bdf, PCI_COMMAND);

	/* 16 bits: the upper half of the word is STATUS, which is cleared by writing ones. */
	pci_select(bdf, PCI_COMMAND);
	outw(0xcfc, command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

/* ---- ACPI fixed hardware and the reset control register ----------------------------------- */

#define PIIX4_PM 0x71138086u
#define ICH9_LPC 0x29188086u
#define PMBASE 0x40 /* the same register in both */
#define PM1_STS 0
#define PM1_EN 2
#define PM1_POWER_BUTTON 0x100
#define PM1_CNT 4
#define SLP_EN_S5 0x2000 /* SLP_TYP is 0 for S5 in QEMU's DSDT */

static u16 pm_base;

static _Noreturn void power_off(void)
{
	if (!pm_base) {
		print("error: no ACPI power management: cannot power off\n");
		halt();
	}
	print("power off\n");
	while (!(inb(UART_LSR) & UART_LSR_TEMT))
		;
	outw(pm_base + PM1_CNT, SLP_EN_S5);
	halt();
}

static _Noreturn void machine_reset(void)
{
	outb(0xcf9, 0x02);
	outb(0xcf9, 0x06);
	outb(0x64, 0xfe);
	halt();
}

/* ---- NVMe --------------------------------------------------------------------------------- */

#define NVME_CAP_LO 0x00
#define NVME_CAP_HI 0x04
#define NVME_VS 0x08
#define NVME_CC 0x14
#define NVME_CSTS 0x1c
#define NVME_AQA 0x24
#define NVME_ASQ 0x28
#define NVME_ACQ 0x30
#define NVME_DBS 0x1000

#define CAP_TO(lo) ((lo) >> 24)
#define CAP_DSTRD(hi) ((hi) & 15)
#define CC_EN 0x1
#define CC_SHN_MASK 0xc000
#define CC_SHN_NORMAL 0x4000
#define CC_IOSQES_IOCQES (6 << 16 | 4 << 20)
#define CSTS_RDY 0x1
#define CSTS_CFS 0x2
#define CSTS_SHST_MASK 0xc
#define CSTS_SHST_CMPLT 0x8

#define ADMIN_IDENTIFY 0x06
#define ID_CNS_CTRL 0x01
#define ID_CTRL_MN 24
#define ID_CTRL_MN_LENGTH 40
#define CQE_PHASE 0x10000
#define CQE_STATUS(dw3) ((dw3) >> 17)

#define PAGE 4096
#define QUEUE_ENTRIES 2 /* the least that NVMe allows */
#define SHUTDOWN_SECONDS 60
#define IDENTIFY_SECONDS 10
#define MAX_CONTROLLERS 8

static struct controller {
	u16 bdf; /* 0, the host bridge's: unplugged, to be used anew */
	int ready;
	u8 *bar;
	u32 asq[PAGE / 4] __attribute__((aligned(PAGE)));
	u32 acq[PAGE / 4] __attribute__((aligned(PAGE)));
	char identify[PAGE] __attribute__((aligned(PAGE)));
} controllers[MAX_CONTROLLERS];

static u32 found;

static volatile u32 *reg(struct controller *controller, u32 offset)
{
	return (volatile u32 *)(controller->bar + offset);
}

static void print_name(const char *before, u16 bdf)
{
	print("%snvme %2:%2.%1", before, bdf >> 8, bdf >> 3 & 31, bdf & 7);
}

static void print_error(struct controller *controller, const char *what)
{
	print_name("error: ", controller->bdf);
	print(": %s CC=%8 CSTS=%8\n", what, *reg(controller, NVME_CC), *reg(controller, NVME_CSTS));
}

static void print_controller(struct controller *controller)
{
	u32 id = pci_read(controller->bdf, PCI_VENDOR_ID);

	print_name("", controller->bdf);
	print(" %4:%4 CAP=%8%8 VS=%8 CC=%8 CSTS=%8\n", id & 0xffff, id >> 16,
	      *reg(controller, NVME_CAP_HI), *reg(controller, NVME_CAP_LO),
	      *reg(controller, NVME_VS), *reg(controller, NVME_CC), *reg(controller, NVME_CSTS));
}

static int map(struct controller *controller)
{
	u32 low = pci_read(controller->bdf, PCI_BASE_ADDRESS_0);
	u32 high = pci_read(controller->bdf, PCI_BASE_ADDRESS_1);

	if (high || !(low & ~15u)) {
		print_name("error: ", controller->bdf);
		print(high ? ": BAR0 is above 4 GiB\n" : ": BAR0 is not assigned\n");
		return 0;
	}
	controller->bar = (u8 *)(low & ~15u);
	return 1;
}

static int enable(struct controller *controller)
{
	volatile u32 *csts = reg(controller, NVME_CSTS);
	u32 seconds = CAP_TO(*reg(controller, NVME_CAP_LO)) / 2 + 1;

	/* SeaBIOS has booted from it and left it enabled. */
	*reg(controller, NVME_CC) = *reg(controller, NVME_CC) & ~(CC_SHN_MASK | CC_EN);
	if (!wait_for(csts, CSTS_RDY, 0, seconds)) {
		print_error(controller, "not disabled in time");
		return 0;
	}
	*reg(controller, NVME_AQA) = (QUEUE_ENTRIES - 1) << 16 | (QUEUE_ENTRIES - 1);
	*reg(controller, NVME_ASQ) = (u32)controller->asq;
	*reg(controller, NVME_ASQ + 4) = 0;
	*reg(controller, NVME_ACQ) = (u32)controller->acq;
	*reg(controller, NVME_ACQ + 4) = 0;
	*reg(controller, NVME_CC) = CC_IOSQES_IOCQES | CC_EN;
	if (!wait_for(csts, CSTS_RDY | CSTS_CFS, CSTS_RDY, seconds)) {
		print_error(controller, "not ready in time");
		return 0;
	}
	return 1;
}

static int identify(struct controller *controller)
{
	u32 stride = 4 << CAP_DSTRD(*reg(controller, NVME_CAP_HI));
	volatile u32 *completion = controller->acq + 3;

	/* A machine reset leaves the completion of the boot before in memory. */
	*completion = 0;
	controller->asq[0] = ADMIN_IDENTIFY;
	controller->asq[6] = (u32)controller->identify;
	controller->asq[10] = ID_CNS_CTRL;
	asm volatile("" : : : "memory");
	*reg(controller, NVME_DBS) = 1;
	if (!wait_for(completion, CQE_PHASE, CQE_PHASE, IDENTIFY_SECONDS)) {
		print_error(controller, "Identify not completed in time");
		return 0;
	}
	*reg(controller, NVME_DBS + stride) = 1;
	if (CQE_STATUS(*completion)) {
		print_error(controller, "Identify failed");
		return 0;
	}
	return 1;
}

static void print_ready(struct controller *controller)
{
	char *model = controller->identify + ID_CTRL_MN;
	u32 length = ID_CTRL_MN_LENGTH;

	while (length && model[length - 1] == ' ')
		length--;
	model[length] = 0;
	print_name("", controller->bdf);
	print(" ready CSTS=%8 model=%s\n", *reg(controller, NVME_CSTS), model);
}

static struct controller *controller_of(u16 bdf)
{
	for (u32 index = 0; index < found; index++)
		if (controllers[index].bdf == bdf)
			return &controllers[index];
	return 0;
}

static void start(u16 bdf)
{
	struct controller *controller = controller_of(0);

	if (!controller) {
		if (found == MAX_CONTROLLERS) {
			print("error: more than %d nvme\n", MAX_CONTROLLERS);
			return;
		}
		controller = &controllers[found++];
	}
	controller->bdf = bdf;
	pci_enable(bdf);
	if (!map(controller))
		return;
	print_controller(controller);
	if (!enable(controller) || !identify(controller))
		return;
	controller->ready = 1;
	print_ready(controller);
}

/* As Linux does it (nvme_disable_ctrl with shutdown): CC.EN stays set. */
static void shut_down(struct controller *controller)
{
	volatile u32 *cc = reg(controller, NVME_CC);
	volatile u32 *csts = reg(controller, NVME_CSTS);

	*cc = (*cc & ~CC_SHN_MASK) | CC_SHN_NORMAL;
	if (!wait_for(csts, CSTS_SHST_MASK, CSTS_SHST_CMPLT, SHUTDOWN_SECONDS)) {
		print_error(controller, "not shut down in time");
		return;
	}
	print_name("", controller->bdf);
	print(" shut down CC=%8 CSTS=%8\n", *cc, *csts);
}

static void shut_down_all(void)
{
	for (u32 index = 0; index < found; index++)
		if (controllers[index].ready)
			shut_down(&controllers[index]);
}

/* ---- hot-plug, as the DSDT of QEMU's "pc" does it ----------------------------------------------
 *
 * By ACPI's eject and not by an express slot's attention button, since the guests' machine is an
 * i440fx, which has none. To libvirt and to vfio it is the same: the guest lets go, then QEMU
 * closes the device and says DEVICE_DELETED.
 */

#define PCIHP_UP 0xae00 /* one bit a slot; read clears */
#define PCIHP_DOWN 0xae04
#define PCIHP_EJECT 0xae08
#define PCIHP_SELECT 0xae10
#define BSEL_ROOT_BUS 0
#define PLUGGED_MEMORY 0xe0000000u /* SeaBIOS fills its window for a pc from the other end */
#define PLUGGED_MEMORY_EACH (1 << 20)

/* As Linux does when its driver is unbound: the controller is shut down, and stays enabled. */
static void unplug(u32 slot)
{
	u16 bdf = slot << 3;
	struct controller *controller = controller_of(bdf);

	if (controller && controller->ready)
		shut_down(controller);
	outl(PCIHP_EJECT, 1u << slot);
	print_name("", bdf);
	print(" unplugged\n");
	if (controller) {
		controller->bdf = 0;
		controller->ready = 0;
	}
}

/* The firmware has long given the others their addresses. */
static void plug(u32 slot)
{
	u16 bdf = slot << 3;

	if (pci_read(bdf, PCI_CLASS_REVISION) >> 8 != PCI_CLASS_STORAGE_EXPRESS)
		return;
	pci_select(bdf, PCI_BASE_ADDRESS_0);
	outl(0xcfc, PLUGGED_MEMORY + slot * PLUGGED_MEMORY_EACH);
	pci_select(bdf, PCI_BASE_ADDRESS_1);
	outl(0xcfc, 0);
	start(bdf);
}

/* Until the power button is pressed. */
static void serve(void)
{
	start_ticking();
	outw(pm_base + PM1_EN, PM1_POWER_BUTTON);
	while (!(inw(pm_base + PM1_STS) & PM1_POWER_BUTTON)) {
		outl(PCIHP_SELECT, BSEL_ROOT_BUS);
		u32 down = inl(PCIHP_DOWN);
		u32 up = inl(PCIHP_UP);

		for (u32 slot = 0; slot < 32; slot++) {
			if (down >> slot & 1)
				unplug(slot);
			if (up >> slot & 1)
				plug(slot);
		}
		sleep_a_tick();
	}
}

/* ---- the whole ------------------------------------------------------------------------------ */

static void look_at(u16 bdf)
{
	u32 id = pci_read(bdf, PCI_VENDOR_ID);

	switch (pci_read(bdf, PCI_CLASS_REVISION) >> 8) {
	case PCI_CLASS_STORAGE_EXPRESS:
		start(bdf);
		break;
	case PCI_CLASS_BRIDGE_PCI_NORMAL:
		/* A bridge without bus mastering stops the DMA of what is behind it. */
		pci_enable(bdf);
		break;
	default:
		if (id == PIIX4_PM || id == ICH9_LPC)
			pm_base = pci_read(bdf, PMBASE) & 0xff80;
	}
}

/* Every bus there can be: a bus of its own (pxb) is behind no bridge that we could walk. */
static void scan(void)
{
	for (u32 slot = 0; slot < 256 * 32; slot++) {
		u16 bdf = slot << 3;

		if ((u16)pci_read(bdf, PCI_VENDOR_ID) == 0xffff)
			continue;
		look_at(bdf);
		if (!(pci_read(bdf, PCI_HEADER_TYPE) & 0x80))
			continue;
		for (u32 function = 1; function < 8; function++)
			if ((u16)pci_read(bdf | function, PCI_VENDOR_ID) != 0xffff)
				look_at(bdf | function);
	}
	if (!found)
		print("no nvme\n");
}

static int same(const char *one, const char *other)
{
	while (*one && *one == *other)
		one++, other++;
	return *one == *other;
}

/* QEMU puts the file name before what -append says. */
static const char *last_word(const char *text)
{
	const char *word = text;

	for (; *text; text++)
		if (*text == ' ' && text[1] && text[1] != ' ')
			word = text + 1;
	return word;
}

_Noreturn void guest_main(u32 magic, const struct multiboot_info *info)
{
	u32 boot = count_boot();
	const char *action = "";

	print("boot %d\n", boot);
	if (magic == MULTIBOOT_BOOTLOADER_MAGIC && info->flags & MULTIBOOT_INFO_CMDLINE)
		action = last_word(info->cmdline);
	scan();

	if (same(action, "reboot") && boot > 1)
		action = "shutdown";
	if (same(action, "shutdown") || same(action, "reboot")) {
		print("action %s\n", action);
		shut_down_all();
		if (same(action, "reboot"))
			machine_reset();
	} else if (same(action, "dirty") || same(action, "hang") || same(action, "serve")) {
		print("action %s\n", action);
		if (same(action, "hang"))
			halt();
		if (same(action, "serve")) {
			serve();
			shut_down_all();
		}
	} else {
		print("error: no action in the command line: %s\n", action);
	}
	power_off();
}
