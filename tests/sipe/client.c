/*
 * Two accounts of pidgin-sipe without a screen: both sign on, each adds the
 * other, one changes its state, and the other is to be told.
 *
 *   client HOST:PORT tcp|tls DOMAIN CA-DIRECTORY
 *
 * Says what it sees, one event a line; 0 if all of it was seen within the time.
 */

#include <glib.h>
#include <purple.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECONDS 60

static PurpleAccount *accounts[2];
static const char *names[2] = { "user000001", "user000002" };
static const char *domain;
static GMainLoop *loop;
static int signed_on, available, busy, offline, code = 1;

/* The event loop of GLib, as libpurple wants it. */

typedef struct {
	PurpleInputFunction function;
	gpointer data;
} Closure;

static gboolean ready(GIOChannel *source, GIOCondition condition, gpointer data)
{
	Closure *closure = data;
	PurpleInputCondition purple = 0;
	if (condition & (G_IO_IN | G_IO_HUP | G_IO_ERR))
		purple |= PURPLE_INPUT_READ;
	if (condition & (G_IO_OUT | G_IO_HUP | G_IO_ERR | G_IO_NVAL))
		purple |= PURPLE_INPUT_WRITE;
	closure->function(closure->data, g_io_channel_unix_get_fd(source), purple);
	return TRUE;
}

static guint input_add(gint fd, PurpleInputCondition condition, PurpleInputFunction function, gpointer data)
{
	Closure *closure = g_new0(Closure, 1);
	GIOCondition wanted = 0;
	GIOChannel *channel = g_io_channel_unix_new(fd);
	guint id;
	closure->function = function;
	closure->data = data;
	if (condition & PURPLE_INPUT_READ)
		wanted |= G_IO_IN | G_IO_HUP | G_IO_ERR;
	if (condition & PURPLE_INPUT_WRITE)
		wanted |= G_IO_OUT | G_IO_HUP | G_IO_ERR | G_IO_NVAL;
	id = g_io_add_watch_full(channel, G_PRIORITY_DEFAULT, wanted, ready, closure, g_free);
	g_io_channel_unref(channel);
	return id;
}

static PurpleEventLoopUiOps eventloop = {
	g_timeout_add, g_source_remove, input_add, g_source_remove, NULL, g_timeout_add_seconds, NULL, NULL, NULL
};

static PurpleCoreUiOps core = { NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL };

static int index_of(PurpleAccount *account)
{
	return account == accounts[1];
}

/* What happens, in order. */

static gboolean finish(gpointer data)
{
	(void)data;
	g_main_loop_quit(loop);
	return FALSE;
}

/* Not from within a signal: the client is at work on the account then. */
static gboolean sign_off(gpointer data)
{
	int i = GPOINTER_TO_INT(data);
	printf("signing off %s\n", names[i]);
	purple_account_set_enabled(accounts[i], "adsum", FALSE);
	if (i == 0)
		g_timeout_add_seconds(1, finish, NULL);
	return FALSE;
}

static gboolean change_state(gpointer data)
{
	(void)data;
	printf("%s becomes busy\n", names[1]);
	purple_account_set_status(accounts[1], "busy", TRUE, NULL);
	return FALSE;
}

static gboolean add_buddies(gpointer data)
{
	int i;
	(void)data;
	for (i = 0; i < 2; i++) {
		char *name = g_strdup_printf("sip:%s@%s", names[1 - i], domain);
		PurpleGroup *group = purple_find_group("Load");
		PurpleBuddy *buddy = purple_buddy_new(accounts[i], name, NULL);
		if (!group) {
			group = purple_group_new("Load");
			purple_blist_add_group(group, NULL);
		}
		purple_blist_add_buddy(buddy, NULL, group, NULL);
		purple_account_add_buddy(accounts[i], buddy);
		printf("%s adds %s\n", names[i], name);
		g_free(name);
	}
	return FALSE;
}

static void on_signed_on(PurpleConnection *connection, gpointer data)
{
	(void)data;
	printf("signed on %s\n", names[index_of(purple_connection_get_account(connection))]);
	if (++signed_on == 2)
		g_timeout_add_seconds(3, add_buddies, NULL);
}

static void on_error(PurpleConnection *connection, PurpleConnectionError reason, const char *text, gpointer data)
{
	(void)data;
	(void)reason;
	printf("error %s: %s\n", names[index_of(purple_connection_get_account(connection))], text);
	g_main_loop_quit(loop);
}

static void saw(PurpleBuddy *buddy, const char *state)
{
	int i = index_of(purple_buddy_get_account(buddy));
	printf("%s sees %s %s\n", names[i], purple_buddy_get_name(buddy), state);
	fflush(stdout);
	if (i != 0)
		return;
	if (!strcmp(state, "available") && !available++)
		g_timeout_add_seconds(2, change_state, NULL);
	if (!strcmp(state, "busy") && available && !busy++)
		g_timeout_add_seconds(2, sign_off, GINT_TO_POINTER(1));
	if (!strcmp(state, "offline") && busy && !offline++) {
		code = 0;
		g_timeout_add_seconds(1, sign_off, GINT_TO_POINTER(0));
	}
}

static void on_buddy_on(PurpleBuddy *buddy, gpointer data)
{
	PurpleStatus *status = purple_presence_get_active_status(purple_buddy_get_presence(buddy));
	(void)data;
	saw(buddy, purple_status_get_id(status));
}

static void on_buddy_off(PurpleBuddy *buddy, gpointer data)
{
	(void)data;
	saw(buddy, "offline");
}

static void on_status(PurpleBuddy *buddy, PurpleStatus *old, PurpleStatus *status, gpointer data)
{
	(void)old;
	(void)data;
	saw(buddy, purple_status_get_id(status));
}

static gboolean give_up(gpointer data)
{
	(void)data;
	printf("gave up after %d s\n", SECONDS);
	g_main_loop_quit(loop);
	return FALSE;
}

int main(int argc, char **argv)
{
	static int handle;
	PurpleSavedStatus *status;
	char *home;
	int i;
	if (argc != 5) {
		fprintf(stderr, "usage: %s HOST:PORT tcp|tls DOMAIN CA-DIRECTORY\n", argv[0]);
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	domain = argv[3];
	home = g_dir_make_tmp("adsum-sipe-XXXXXX", NULL);
	purple_util_set_user_dir(home);
	purple_debug_set_enabled(getenv("ADSUM_SIPE_DEBUG") != NULL);
	purple_core_set_ui_ops(&core);
	purple_eventloop_set_ui_ops(&eventloop);
	if (!purple_core_init("adsum")) {
		fprintf(stderr, "libpurple does not start\n");
		return 2;
	}
	purple_certificate_add_ca_search_path(argv[4]);
	purple_set_blist(purple_blist_new());
	purple_signal_connect(purple_connections_get_handle(), "signed-on", &handle, PURPLE_CALLBACK(on_signed_on), NULL);
	purple_signal_connect(purple_connections_get_handle(), "connection-error", &handle, PURPLE_CALLBACK(on_error), NULL);
	purple_signal_connect(purple_blist_get_handle(), "buddy-signed-on", &handle, PURPLE_CALLBACK(on_buddy_on), NULL);
	purple_signal_connect(purple_blist_get_handle(), "buddy-signed-off", &handle, PURPLE_CALLBACK(on_buddy_off), NULL);
	purple_signal_connect(purple_blist_get_handle(), "buddy-status-changed", &handle, PURPLE_CALLBACK(on_status), NULL);
	loop = g_main_loop_new(NULL, FALSE);
	for (i = 0; i < 2; i++) {
		char *name = g_strdup_printf("%s@%s,%s", names[i], domain, names[i]);
		char *password = g_strdup_printf("pw-%s", names[i]);
		accounts[i] = purple_account_new(name, "prpl-sipe");
		purple_account_set_password(accounts[i], password);
		purple_account_set_string(accounts[i], "server", argv[1]);
		purple_account_set_string(accounts[i], "transport", argv[2]);
		purple_account_set_string(accounts[i], "authentication", "ntlm");
		purple_account_set_bool(accounts[i], "sso", FALSE);
		purple_account_set_bool(accounts[i], "dont-publish", TRUE);
		purple_accounts_add(accounts[i]);
		g_free(name);
		g_free(password);
	}
	status = purple_savedstatus_new(NULL, PURPLE_STATUS_AVAILABLE);
	purple_savedstatus_activate(status);
	for (i = 0; i < 2; i++)
		purple_account_set_enabled(accounts[i], "adsum", TRUE);
	g_timeout_add_seconds(SECONDS, give_up, NULL);
	g_main_loop_run(loop);
	g_free(home);
	return code;
}
