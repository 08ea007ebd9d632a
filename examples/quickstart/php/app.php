<?php
// The app: it keeps notes in MongoDB, and knows nothing of Sidestream. For `php -S 0.0.0.0:3000 app.php`.

$mongodb = new MongoDB\Driver\Manager(getenv('MONGODB_URI') ?: 'mongodb://127.0.0.1:27017/?replicaSet=rs0');

if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    $write = new MongoDB\Driver\BulkWrite();
    $write->insert(['text' => $_POST['text']]);
    $mongodb->executeBulkWrite('quickstart.notes', $write);
    header('Location: /', true, 303);
} else {
    readfile(__DIR__ . '/index.html');
}
