# Courier's POP3 server, in a mount namespace: its paths are fixed, but here they lead into its folder.
set -e
mount --bind $folder/etc /etc/courier
mkdir -p /run/courier
mount --bind $folder/run /run/courier
mkdir -p /run/courier/authdaemon
makeuserdb
set -a
. /etc/courier/authdaemonrc
/usr/lib/courier/courier-authlib/authdaemond &
POP3AUTH="PLAIN LOGIN" POP3AUTH_TLS="PLAIN LOGIN" MAILDIRPATH=Maildir
POP3_STARTTLS=YES POP3_TLS_REQUIRED=0 COURIERTLS=/usr/bin/couriertls
TLS_CERTFILE=$folder/etc/node.pem TLS_VERIFYPEER=NONE
TLS_CACHEFILE=$folder/run/tls-sessions TLS_CACHESIZE=524288
pop3="$programs/courierpop3login $programs/courierpop3d Maildir"
tcpd="/usr/sbin/couriertcpd -address=$host -maxprocs=20000 -maxperip=20000 -nodnslookup -noidentlookup"
POP3_TLS=1 $$tcpd $pop3s /usr/bin/couriertls -server -tcpd $$pop3 &
exec $$tcpd $pop3 $$pop3
